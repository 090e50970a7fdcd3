"""The house: what the Makefile, the README, the containers and the import contracts promise is so."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.main import VERSION, create_app
from app.settings import Settings, variable

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
WITHOUT_SETUP = {"help", "clean", "distclean"}


def _verbs() -> dict[str, str]:
    """The Makefile's documented verbs, each with what it depends on."""
    return dict(re.findall(r"^([a-z-]+):(.*?)##", MAKEFILE, re.MULTILINE))


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _stage(name: str) -> str:
    """The lines of one stage of the Dockerfile."""
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    (found,) = (stage for stage in stages if re.match(rf"\S+ AS {name}\n", stage))
    return found


# The Makefile and the README.


def test_every_make_verb_of_the_readme_is_in_the_makefile_and_the_other_way_round():
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)`", README)) == _verbs().keys() - {"help"}
    in_blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z-]+)", in_blocks)) <= _verbs().keys()


def test_every_verb_sets_up_first():
    for verb, needs in _verbs().items():
        assert verb in WITHOUT_SETUP or "$(READY)" in needs, f"make {verb} does not depend on setup"


@pytest.mark.parametrize("verb", sorted(_verbs()))
def test_make_can_say_what_a_verb_would_do(verb: str):
    assert shutil.which("make"), "make is needed to work on this project"
    _run("make", "--dry-run", verb)


def test_setup_is_asked_for_again_when_pyproject_or_the_constraints_change():
    assert re.search(r"^\$\(READY\): pyproject\.toml constraints\.txt$", MAKEFILE, re.MULTILINE)


def test_every_dependency_is_pinned_to_a_version_that_pyproject_allows():
    pins = _pins()
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        need = Requirement(text)
        assert pins[canonicalize_name(need.name)] in need.specifier, text


def test_the_pins_fit_each_other():
    """What is installed may not ask for other versions; of torch's builds the standard one alone asks for Triton."""
    pins = _pins()
    for name in pins.keys() & {canonicalize_name(one.name) for one in distributions()}:
        for text in requires(name) or ():
            need = Requirement(text)
            pin = pins.get(canonicalize_name(need.name))
            if pin is not None and (need.marker is None or need.marker.evaluate({"extra": ""})):
                assert need.specifier.contains(pin, prereleases=True), f"{name} needs {text}"


def test_every_link_in_the_documents_leads_to_a_file():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text().replace("\n", " ")):
            if not target.startswith("http"):
                assert (document.parent / target.strip()).exists(), f"{document.name} links to {target}"


def test_the_python_example_of_the_readme_runs(tmp_path: Path):
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "from model" in code)
    result = tmp_path / "mask.png"
    assert '"mask.png"' in code
    _run(sys.executable, "-c", code.replace('"mask.png"', repr(str(result))))
    assert result.stat().st_size > 0


def test_the_openapi_file_is_what_the_service_says():
    stored = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert stored == json.loads(json.dumps(create_app(Settings()).openapi())), "run `make docs`"


def test_the_version_is_the_same_everywhere():
    assert PROJECT["version"] == VERSION
    assert f"\n## {VERSION} " in (ROOT / "CHANGELOG.md").read_text()
    assert f'image.version="{VERSION}"' in DOCKERFILE


def test_ci_runs_check_and_test():
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert lines.index("step make check") < lines.index("step make test")
    assert "set -euo pipefail" in lines
    _run("bash", "-n", script)


# The contracts.


def test_the_import_contracts_are_kept():
    linter = Path(sys.executable).with_name("lint-imports")
    assert "0 broken" in _run(linter, "--no-cache")


# The containers.


def test_the_compose_file_follows_the_compose_specification():
    _run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_compose_has_a_profile_for_each_target_of_the_dockerfile():
    services = COMPOSE["services"]
    assert {name: service["profiles"] for name, service in services.items()} == {"cpu": ["cpu"], "gpu": ["gpu"]}
    for service in services.values():
        _stage(service["build"]["target"])
    assert "bundled" in services["cpu"]["environment"]["SEGGPT_CHECKPOINT"]
    assert "BAAI/seggpt-vit-large" in services["gpu"]["environment"]["SEGGPT_CHECKPOINT"]


def test_containers_set_only_variables_that_are_settings():
    known = {variable(field) for field in Settings.model_fields}
    for service in COMPOSE["services"].values():
        assert service["environment"].keys() <= known
    assert set(re.findall(r"^ +(SEGGPT_\w+)=", DOCKERFILE, re.MULTILINE)) <= known


def test_compose_waits_longer_than_the_service_drains():
    for service in COMPOSE["services"].values():
        assert int(service["stop_grace_period"].removesuffix("s")) > float(service["environment"]["SEGGPT_DRAIN_S"])


def test_the_checkpoint_cache_and_the_prompts_are_volumes_that_the_service_user_owns():
    ((cache, data),) = re.findall(r"^VOLUME (\S+) (\S+)$", _stage("runtime"), re.MULTILINE)
    assert f"HF_HOME={cache} " in DOCKERFILE
    assert f"SEGGPT_PROMPTS={data}/prompts " in DOCKERFILE
    assert f"install -d -o seggpt -g seggpt {cache} {data}\n" in DOCKERFILE
    volumes = [f"checkpoints:{cache}", f"prompts:{data}"]
    assert all(service["volumes"] == volumes for service in COMPOSE["services"].values())
    assert COMPOSE["volumes"].keys() == {"checkpoints", "prompts"}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_as_an_ordinary_user_from_an_exec_form_command(target: str):
    assert _stage(target).startswith("runtime ")
    assert re.findall(r"^USER (\S+)$", _stage(target), re.MULTILINE) == ["seggpt"]
    (command,) = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert json.loads(command) == ["python", "-m", "app"]
    assert "/health/ready" in _stage("runtime")


def test_the_images_get_no_dev_packages_and_only_what_they_run():
    assert re.findall(r"\['optional-dependencies'\]\['(\w+)'\]", DOCKERFILE) == ["s3"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert {name for line in copied for name in line.split()} == allowed
