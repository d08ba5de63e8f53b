"""Suggestions of names."""

from trireme.config.suggest import did_you_mean, nearest_names


def test_prefixes_precede_similar_names() -> None:
    devices = ["h200", "h100_pcie", "h100_sxm", "a100_40gb"]
    assert nearest_names("h100", devices) == ["h100_sxm"], "and not h200, one letter away"
    assert nearest_names("h100", devices, count=3) == ["h100_sxm", "h100_pcie", "h200"]
    assert nearest_names("a10", devices) == ["a100_40gb"]
    assert nearest_names("h", devices) == [], "one letter says nothing"
    assert did_you_mean("cpu", devices) == ""
