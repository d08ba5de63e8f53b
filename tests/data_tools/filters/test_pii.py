"""What names a person is masked; versions, dates, prices and private addresses stay."""

import time

import pytest

from data_tools.config.filtering import PersonalDataConfig
from data_tools.filters.pii import PersonalDataMask, mask_emails, mask_ips, mask_phones
from tests.data_tools.step_results import apply_step


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+x@mail.example.org.", "Write to M."),
        ("<a_b@c.de>", "<M>"),
        ("联系me@example.cn，谢谢", "联系M，谢谢"),
        ("user@host and @name and a@b.1", "user@host and @name and a@b.1"),
        ("git clone git@github.com:a/b", "git clone git@github.com:a/b"),
        ("scp x jane@host.example.org:/tmp", "scp x jane@host.example.org:/tmp"),
        ("jane@example.org: hello", "M: hello"),
        ("icon@2x.png and getty@tty1.service", "icon@2x.png and getty@tty1.service"),
    ],
)
def test_emails(text, expected):
    assert mask_emails(text, "M") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 151.8.4.4, port", "from M, port"),
        ("地址8.8.8.208", "地址M"),
        ("ends 8.100.4.4.", "ends M."),
        ("127.0.0.1 10.1.2.3 192.168.0.1", "127.0.0.1 10.1.2.3 192.168.0.1"),
        ("999.1.1.1 version 1.2.3.4.5", "999.1.1.1 version 1.2.3.4.5"),
        ("see section 6.3.4.2 of version 12.0.0.99", "see section 6.3.4.2 of version 12.0.0.99"),
        ("Linux 5.10.0.136 of 2021", "Linux 5.10.0.136 of 2021"),
        ("firmware 4.18.220.101, version: 9.134.55.7", "firmware 4.18.220.101, version: 9.134.55.7"),
        ("linux-4.119.33.2 and 151.8.4.4-amd64", "linux-4.119.33.2 and 151.8.4.4-amd64"),
        ("hosts 104.244.42.1-104.244.42.9", "hosts M-M"),
        ("224.0.0.251 and 239.255.255.250", "224.0.0.251 and 239.255.255.250"),
        ("[2001:4860:4860::8888]", "[M]"),
        ("::1 and 12:30:45 and a::b", "::1 and 12:30:45 and a::b"),
    ],
)
def test_ips(text, expected):
    assert mask_ips(text, "M") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Call +49 30 901820 now", "Call M now"),
        ("+1 (212) 555-0123", "M"),
        ("(212) 555-0123, 212-555-0123, 212.555.0123", "M, M, M"),
        ("手机 13812345678 或 138-1234-5678", "手机 M 或 M"),
        ("2024-11-25 12:00, 1999-2004, 3.141592653", "2024-11-25 12:00, 1999-2004, 3.141592653"),
        ("x+12345678 ISBN 978-3-16-148410-0", "x+12345678 ISBN 978-3-16-148410-0"),
        ("population 14025000000", "population 14025000000"),
        ("18725000017 bytes were read", "18725000017 bytes were read"),
        ("人口13800000000", "人口13800000000"),
        ("Mobile: 13812345678", "Mobile: M"),
        ("+5 degrees, +10 20", "+5 degrees, +10 20"),
    ],
)
def test_phones(text, expected):
    assert mask_phones(text, "M") == expected


def test_what_is_masked_is_noted_once_a_document():
    config = PersonalDataConfig(mask=["ip", "email"], email_mask="<mail>")
    kept, ledger = apply_step(PersonalDataMask(config), "a@b.org c@d.org 8.8.8.208 +49 30 901820", "nothing")
    assert [document.text for document in kept] == ["<mail> <mail> |||IP_ADDRESS||| +49 30 901820", "nothing"]
    assert ledger.notes == {"masked_email": 1, "masked_ip": 1}


@pytest.mark.parametrize(
    "text", ["a" * 200_000 + "@", "a.b-" * 50_000 + "@", "1 " * 100_000, "ab:" * 70_000, "1." * 99_000]
)
def test_no_text_takes_long(text):
    start = time.thread_time()
    mask_phones(mask_ips(mask_emails(text, "M"), "M"), "M")
    assert time.thread_time() - start < 5, "quadratic time would take minutes"
