"""Modules that `config.plugins` names are imported from the current folder."""

import sys

import pytest

from codeformer_jax.system.registry import Registry, import_plugins


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("plugin_of_a_test")]:
        del sys.modules[name]


def test_a_module_in_the_current_folder_registers_its_entry_once(folder):
    source = "from codeformer_jax.system import registry\nregistry.PLACE.register('mine')(1)\n"
    (folder / "plugin_of_a_test.py").write_text(source)
    registry = Registry("config.place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codeformer_jax.system.registry.PLACE", registry, raising=False)
        for _ in range(2):
            import_plugins({"plugins": ("plugin_of_a_test",)})
    assert registry["mine"] == 1


def test_configs_without_plugins_pass():
    import_plugins({})
    import_plugins({"plugins": ()})


def test_a_module_that_cannot_be_imported_names_the_setting(folder):
    with pytest.raises(ValueError, match=r"^plugins=\('plugin_of_a_test_missing',\): .*No module"):
        import_plugins({"plugins": ["plugin_of_a_test_missing"]})
    (folder / "plugin_of_a_test_broken.py").write_text("import no_such_package\n")
    with pytest.raises(ValueError, match="No module named 'no_such_package'"):
        import_plugins({"plugins": ["plugin_of_a_test_broken"]})
