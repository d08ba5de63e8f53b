"""Format the dates in wiki templates in the language of the wiki."""

import re

_MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    "nl": "januari februari maart april mei juni juli augustus september oktober november december",
    "pl": "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia",
    "ru": "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    "uk": "січня лютого березня квітня травня червня липня серпня вересня жовтня листопада грудня",
    "cs": "ledna února března dubna května června července srpna září října listopadu prosince",
    "sv": "januari februari mars april maj juni juli augusti september oktober november december",
    "ca": "gener febrer març abril maig juny juliol agost setembre octubre novembre desembre",
    "tr": "Ocak Şubat Mart Nisan Mayıs Haziran Temmuz Ağustos Eylül Ekim Kasım Aralık",
    "ar": "يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر",
}
_MONTH_NAMES = {language: names.split() for language, names in _MONTHS.items()}
_DAY_FIRST = {
    "de": "{day}. {month} {year}", "es": "{day} de {month} de {year}", "pt": "{day} de {month} de {year}",
    "cs": "{day}. {month} {year}",
}  # fmt: skip
_MONTH_ONLY = {"es": "{month} de {year}", "pt": "{month} de {year}"}
_NUMERIC = {
    "ja": ("{year}年", "{month}月", "{day}日"),
    "zh": ("{year}年", "{month}月", "{day}日"),
    "ko": ("{year}년", " {month}월", " {day}일"),
}
_ISO_DATE = re.compile(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?")
_YES = ("y", "yes", "1")


def month_name(number: int, language: str) -> str:
    """Return a month's name in the form used in dates; the English name for an unsupported language."""
    return _MONTH_NAMES.get(language, _MONTH_NAMES["en"])[number - 1]


def format_date(parts: list[str], named: dict[str, str], *, language: str = "en") -> str:
    """Return the first date of {{birth date|1990|1|31}} or {{fecha|31|1|1990}}, and omit their other arguments.

    Args:
        named: named arguments; df=yes puts the day before the month in English.
    """
    if len(parts) == 1 and (iso := _ISO_DATE.fullmatch(parts[0])):
        parts = [part or "" for part in iso.groups()]
    first, second, third = ([*(part.strip() for part in parts), "", "", ""])[:3]
    digits = first.strip("-−")
    if digits.isdigit() and (len(digits) > 2 or not third):
        year, month, day = first, second, third
    elif third.strip("-−").isdigit() or third:
        year, month, day = third, second, first
    else:
        return " ".join(part for part in (first, second) if part)
    number = int(month) if month.isdigit() and 1 <= int(month) <= 12 else 0
    day = day.lstrip("0") if day.isdigit() else ""
    if language in _NUMERIC:
        values = (year, str(number or month), day)
        written = (
            form.format(year=value, month=value, day=value)
            for form, value in zip(_NUMERIC[language], values, strict=True)
            if value
        )
        return "".join(written)
    name = month_name(number, language) if number else month
    if not name:
        return year
    if not day:
        return _MONTH_ONLY.get(language, "{month} {year}").format(month=name, year=year)
    is_english = language not in _MONTH_NAMES or language == "en"
    if is_english and named.get("df", "").lower() not in _YES:
        return f"{name} {day}, {year}"
    if day == "1" and language == "fr":
        day = "1er"
    return _DAY_FIRST.get(language, "{day} {month} {year}").format(day=day, month=name, year=year)
