"""Format the amounts of money in wiki templates."""

from data_tools.extract.wikitext.template_names import read_names

_SIGNS = {
    "€": "eur euro euros € eu€",
    "$": "$ dollar",
    "US$": "us$ usd us_dollar united_states_dollar доллар_сша",
    "£": "£ gbp pound_sterling gb£",
    "¥": "¥ jpy jp¥ yen japanese_yen 円",
    "CN¥": "cny cn¥ rmb renminbi 人民币 人民幣",
    "₹": "inr indian_rupee indian_rupees ₹ rupee",
    "A$": "aud a$ au$",
    "C$": "cad c$ ca$",
    "NZ$": "nzd nz$",
    "HK$": "hkd hk$",
    "NT$": "twd nt$ ntd",
    "S$": "sgd s$ sg$",
    "₩": "krw ₩ south_korean_won",
    "₽": "rub ₽ ruble руб рубль",
    "₴": "uah ₴",
    "R$": "brl r$",
    "R": "zar",
    "₺": "try ₺",
    "₪": "ils ₪ nis",
    "₱": "php ₱ philippine_peso",
    "฿": "thb ฿",
    "₫": "vnd ₫",
    "₦": "ngn ₦ naira",
    "₿": "btc",
    "zł": "pln",
    "Kč": "czk",
    "Ft": "huf",
    "kr": "sek nok dkk isk",
    "DM": "dem dm",
    "₤": "itl",
    "MX$": "mxn",
    "৳": "bdt",
    "₨": "pkr lkr npr",
}
_SIGN_BY_NAME = {name.replace("_", " "): sign for sign, names in _SIGNS.items() for name in names.split()}
_CODES = read_names("""
    aed ars atb ats bef bgn bhd bob chf clp cop crc dop dzd eek egp esp fim frf gel ghs gtq hnl hrk idr iqd irr jmd jod
    kes kwd kzt lbp ltl luf lvl lyd mad mkd mop mur myr nio nlg omr pab pen pte pyg qar ron rsd sar sdg sit skk syp tnd
    tzs ugx uyu uzs ves xaf xof yer zmw
""")
_SIGN_FIRST = frozenset(("en", "ja", "zh", "ko", "pt", "nl", "hi", "bn", "ta", "th", "id", "ms", "tr", "simple", ""))
"""Languages that write the currency sign before the amount."""


def format_money(name: str, amount: str, *, language: str) -> str | None:
    """Return the amount of {{US$|5 million}} with its sign; None if no currency has this name."""
    sign = _SIGN_BY_NAME.get(name)
    if sign is None:
        if name not in _CODES or not any(character.isdigit() for character in amount):
            return None
        sign = name.upper()
    if not amount:
        return sign
    if language in _SIGN_FIRST:
        return f"{sign} {amount}" if sign.isascii() and sign.isalpha() else f"{sign}{amount}"
    return f"{amount} {sign}"
