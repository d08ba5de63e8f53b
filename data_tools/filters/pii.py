"""Mask e-mail addresses, public IP addresses and telephone numbers.

FineWeb (https://arxiv.org/abs/2406.17557) masks the first two, Dolma (https://arxiv.org/abs/2402.00159) all three, with
the marks that are the defaults here. A telephone number is masked only when its form leaves little doubt: an
international one with +, one in North American groups, or a Chinese mobile number, which without separators must be
among Chinese characters or after a word such as mobile. Others are kept. So are IPv4 addresses all of whose numbers are
below 100, versions, multicast groups, and logins (git@github.com) and files (icon@2x.png) that look like e-mail
addresses.
"""

import ipaddress
import re
from collections.abc import Callable

from data_tools.config.filtering import PersonalDataConfig
from data_tools.document import Document
from data_tools.ledger import Ledger

# The lengths are bounded, so that no text takes more than linear time.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_LOGINS = frozenset(("git", "svn", "hg", "cvs", "anoncvs", "anonymous", "ftp"))
"""Names that everybody uses on a server."""
_NO_TOP_LEVEL = frozenset((
    "service", "socket", "timer", "mount", "automount", "slice", "target", "scope", "swap",
    "png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "html", "htm", "js", "css", "json", "xml", "txt", "conf", "yaml",
))  # fmt: skip
"""Ends of names of systemd's units (getty@tty1.service) and of files."""
_REMOTE_PATH = re.compile(r":[~/]")
_IPV4 = re.compile(r"(?<![\w.])(?<![A-Za-z]-)(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\w|-[A-Za-z])", re.ASCII)
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:versions?|ver\.?|v|releases?|builds?|kernel|firmware|driver|revision|rev\.?|update)|版本?|バージョン)[\s:=v]*$",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", re.ASCII)
# A part of each address that is found fast, since it begins with no look behind.
_IPV4_PART = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")
_IPV6_PART = re.compile(r":[0-9A-Fa-f]{0,4}:")
_PHONES = (
    re.compile(r"(?<![\w+])\+[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{2,4}){2,5}(?!\w|[.-]\d)", re.ASCII),
    re.compile(r"(?<![\w.+-])(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[.-]\d{4}(?![\w-]|\.\d)", re.ASCII),
    re.compile(
        r"(?<![\w.+-])1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])[ -]?\d{4}[ -]?\d{4}(?![\w-]|\.\d)",
        re.ASCII,
    ),
)
_PHONE_BEFORE = re.compile(r"phone|mobile|\btel|\bcell|\bcall|whatsapp|wechat|sms", re.IGNORECASE)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
CONTEXT_CHARACTERS = 20
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 8, 15
"""International numbers have 15 digits at most (ITU-T E.164)."""


class PersonalDataMask:
    """Mask personal data as configured."""

    def __init__(self, config: PersonalDataConfig) -> None:
        maskers: dict[str, Callable[[str], str]] = {
            "email": lambda text: mask_emails(text, config.email_mask),
            "ip": lambda text: mask_ips(text, config.ip_mask),
            "phone": lambda text: mask_phones(text, config.phone_mask),
        }
        # An address may hold a number: the order does not depend on the configuration's.
        self._maskers = {kind: mask for kind, mask in maskers.items() if kind in config.mask}

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Mask what is found in a document's text, and note in how many documents something was."""
        for kind, mask in self._maskers.items():
            masked = mask(document.text)
            if masked != document.text:
                document.text = masked
                ledger.note(f"masked_{kind}")


def mask_emails(text: str, mask: str) -> str:
    """Replace e-mail addresses."""

    def replace(match: re.Match[str]) -> str:
        is_login = match[0].partition("@")[0].lower() in _LOGINS or _REMOTE_PATH.match(text, match.end())
        is_file = match[0].rpartition(".")[2].lower() in _NO_TOP_LEVEL
        return match[0] if is_login or is_file else mask

    return _EMAIL.sub(replace, text) if "@" in text else text


def mask_ips(text: str, mask: str) -> str:
    """Replace IPv4 and IPv6 addresses that are reachable from everywhere; 127.0.0.1 and 192.168.0.1 name nobody."""

    def is_version(match: re.Match[str]) -> bool:
        numbers = [int(number) for number in match[0].split(".")]
        # 5.10.0.136: of all addresses one in thousands has three small numbers with a zero among the first ones.
        has_form = sum(number < 20 for number in numbers) >= 3 and 0 in numbers[:3]
        return has_form or bool(_VERSION_BEFORE.search(match.string[max(0, match.start() - 16) : match.start()]))

    def replace(match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        if isinstance(address, ipaddress.IPv4Address):
            # 6.3.4.2 is more often a section or a version: on manuals nine in ten of such matches are, and of all
            # addresses only one in fifty has no number of three digits.
            is_plausible = max(address.packed) >= 100 and not address.is_multicast and not is_version(match)
        else:
            # Only this range is given out (2000::/3); a::b is more often a name in a program.
            is_plausible = int(address) >> 125 == 1
        return mask if address.is_global and is_plausible else match[0]

    if _IPV4_PART.search(text):
        text = _IPV4.sub(replace, text)
    if _IPV6_PART.search(text):
        text = _IPV6.sub(replace, text)
    return text


def mask_phones(text: str, mask: str) -> str:
    """Replace telephone numbers."""

    def is_expected(match: re.Match[str]) -> bool:
        """Return whether a number without any sign of its form stands where a Chinese mobile number would."""
        before = match.string[max(0, match.start() - CONTEXT_CHARACTERS) : match.start()]
        after = match.string[match.end() : match.end() + CONTEXT_CHARACTERS]
        return not match[0].endswith("0000") and bool(
            _PHONE_BEFORE.search(before) or _CHINESE.search(before) or _CHINESE.search(after)
        )

    def replace(match: re.Match[str]) -> str:
        num_digits = sum(map(str.isdigit, match[0]))
        if match[0].isdigit() and not is_expected(match):
            return match[0]
        return mask if MIN_PHONE_DIGITS <= num_digits <= MAX_PHONE_DIGITS else match[0]

    for pattern in _PHONES:
        text = pattern.sub(replace, text)
    return text
