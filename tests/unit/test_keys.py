"""Keys that are made of a server's, and expire."""

import pytest

import main as cli
from preceptor.ground.errors import UserError
from preceptor.serving import keys
from preceptor.serving.keys import made, refusal

NOT_OURS = "The key is missing or not the server's any more."


def test_a_key_is_good_until_it_expires_and_no_other_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys.time, "time", lambda: 1_000_000.0)
    key, until = made("master", 2)
    assert until == 1_000_000 + 2 * 86_400
    assert refusal("master", f"Bearer {key}") == refusal("master", "Bearer master") == refusal("", "") == ""
    later = key.replace(str(until), str(until + 1))
    for header in ("", "Bearer ", f"Bearer {later}", f"Bearer {key}0", key, f"Basic {key}", "Bearer schl\xfcssel"):
        assert refusal("master", header) == NOT_OURS
    assert refusal("another", f"Bearer {key}") == NOT_OURS
    monkeypatch.setattr(keys.time, "time", lambda: float(until))
    assert refusal("master", f"Bearer {key}") == "The key expired on 1970-01-14 13:46 UTC."
    assert refusal("master", f"Bearer {later}") == NOT_OURS, "who changes the day is not told that it was one"
    assert refusal("master", "Bearer master") == "", "which never expires"


def test_the_command_makes_one_of_the_servers_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRECEPTOR_SERVER_KEY", "master")
    assert cli.main(["serve", "--key-days", "30"]) == 0
    key = capsys.readouterr().out.strip()
    assert refusal("master", f"Bearer {key}") == ""
    for wrong in (key, ""):
        monkeypatch.setenv("PRECEPTOR_SERVER_KEY", wrong)
        assert cli.main(["serve", "--key-days", "30"]) == 2
        assert "keys are made of the server's" in capsys.readouterr().err
    with pytest.raises(UserError):
        made("", 1)
