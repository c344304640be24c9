"""Heavy imports: the collector rests meanwhile, and what only other programs need is imported when they ask for it."""

import gc
import sys
import types

import pytest

from redaes import importing
from redaes.importing import deferred, is_imported, uncollected, when_imported

MODULE = "wave"  # of the standard library, small, imported by nothing here


@pytest.fixture
def absent(monkeypatch):
    """The module is not imported, and is again as it was afterwards."""
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_the_collector_is_as_before_even_after_an_error():
    def failing():
        with uncollected():
            assert not gc.isenabled()
            raise KeyError("inside")

    with pytest.raises(KeyError):
        failing()
    assert gc.isenabled()


def test_one_who_had_the_collector_off_keeps_it_off():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_deferred_function_imports_its_module_when_called(absent, tmp_path):
    with deferred(MODULE, "open"):
        from wave import open as opened
    assert MODULE not in sys.modules
    with pytest.raises(FileNotFoundError):
        opened(str(tmp_path / "none.wav")).close()
    assert MODULE in sys.modules


def test_anything_else_of_the_module_imports_it_at_once(absent):
    with deferred(MODULE, "open"):
        from wave import Wave_read
    import wave

    assert Wave_read is wave.Wave_read


def test_a_module_that_is_there_is_left_alone():
    import wave

    with deferred(MODULE, "open"):
        from wave import open as opened
    assert opened is wave.open


def test_what_was_imported_counts_as_old_and_what_somebody_froze_stays_frozen():
    with uncollected():
        made = [[] for _ in range(1000)]
    young = {id(one) for one in gc.get_objects(generation=0)}
    assert not any(id(one) in young for one in made)
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with uncollected():
            pass
        assert gc.get_freeze_count() >= frozen - 100  # some may have gone, as their users have
    finally:
        gc.unfreeze()


def test_only_the_named_libraries_get_a_stand_in(absent):
    with deferred(MODULE, "open", by=("transformers",)):
        from wave import open as opened
    import wave

    assert opened is wave.open


def test_a_part_of_a_deferred_package_can_be_imported(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "wsgiref"]:
        monkeypatch.delitem(sys.modules, name)
    with deferred("wsgiref", "anything"):
        import wsgiref.util

        assert wsgiref.util.guess_scheme({}) == "http"
        assert is_imported("wsgiref")


def test_a_part_is_taken_from_a_deferred_package_as_from_any(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "wsgiref"]:
        monkeypatch.delitem(sys.modules, name)
    with deferred("wsgiref", "anything"):
        from wsgiref import headers
    assert headers is sys.modules["wsgiref.headers"]
    for name in [name for name in sys.modules if name.split(".")[0] == "wsgiref"]:
        monkeypatch.delitem(sys.modules, name)
    with deferred("wsgiref", "anything"), pytest.raises(ImportError, match="nothing_like_it"):
        from wsgiref import nothing_like_it  # noqa: F401


def test_deferring_again_and_again_what_nobody_takes_leaves_nothing_behind(absent):
    before = len(importing._arrivals.awaited.get(MODULE, ()))
    for _ in range(3):
        with deferred(MODULE, "open"):
            pass
    assert len(importing._arrivals.awaited[MODULE]) == before


def test_a_deferred_part_is_found_on_its_package_and_gone_from_it_afterwards(monkeypatch):
    import xml

    monkeypatch.delitem(sys.modules, "xml.sax.saxutils", raising=False)
    import xml.sax

    monkeypatch.delattr(xml.sax, "saxutils", raising=False)
    with deferred("xml.sax.saxutils", "quoteattr"):
        assert xml.sax.saxutils.escape("<") == "&lt;"  # not deferred, hence imported
    assert is_imported("xml.sax.saxutils")
    monkeypatch.delitem(sys.modules, "xml.sax.saxutils")
    monkeypatch.delattr(xml.sax, "saxutils")
    with deferred("xml.sax.saxutils", "quoteattr"):
        pass
    assert "saxutils" not in vars(xml.sax)


def test_a_module_that_is_not_installed_is_not_deferred():
    with deferred("no_such_module", "anything"), pytest.raises(ModuleNotFoundError):
        import no_such_module  # noqa: F401


def test_nothing_is_an_instance_of_a_deferred_class_until_it_is_imported(absent):
    with deferred(MODULE, "Error", "Wave_read"):
        from wave import Error, Wave_read
    assert not isinstance(ValueError(), Error)
    assert not issubclass(ValueError, Error)
    assert not is_imported(MODULE)
    derived = type("Derived", types.resolve_bases((Error,)), {})
    import wave

    assert derived.__mro__[1] is wave.Error
    assert isinstance(wave.Error(), Error)
    assert issubclass(derived, Error)
    assert str | Wave_read == str | wave.Wave_read
    assert Wave_read | str == wave.Wave_read | str


def test_whoever_took_a_stand_in_has_the_real_thing_once_anybody_imports_the_module(absent, monkeypatch):
    taker = types.ModuleType("taker")
    monkeypatch.setitem(sys.modules, "taker", taker)
    with deferred(MODULE, "open"):
        exec("import wave; from wave import open, Wave_read as read", vars(taker))
    assert is_imported(MODULE)  # for Wave_read
    import wave

    assert (taker.open, taker.read, taker.wave) == (wave.open, wave.Wave_read, wave)


def test_one_who_waits_for_a_module_is_told_once_and_one_who_comes_late_at_once(absent):
    told = []
    when_imported(MODULE, told.append)
    assert told == []
    import wave

    assert told == [wave]
    when_imported(MODULE, told.append)
    assert told == [wave, wave]
