"""The files that no program here can run: read by a parser of their kind, and compared with what they speak of.

    documents.py check [CASE …]     one line a case; the last line counts them
    documents.py --list             the cases
    documents.py readme FOLDER      what README.md tells to type, as files that the other cases run
    documents.py shell DOCKERFILE   the steps of a Dockerfile as shell commands
"""

import copy
import glob
import json
import os
import re
import shlex
import sys
import tomllib
import zipfile
from pathlib import Path

import jsonschema
import yaml
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/packaging"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PACKAGE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
DOCKERFILES = [HERE / "Dockerfile", HERE / "cloudnativepg/Dockerfile"]
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def blocks(path, language):
    """The fenced blocks of a Markdown file."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", path.read_text(), re.M | re.S)


def commands(text):
    """The lines of shell without comments and indents."""
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def block_with(path, language, start):
    """The one block that has a line beginning so."""
    found = [b for b in blocks(path, language) if any(line.startswith(start) for line in b.splitlines())]
    assert len(found) == 1, f"{path.name} has {len(found)} {language} blocks with a line \"{start} …\""
    return found[0]


def write_readme(folder):
    readme = ROOT / "README.md"
    typed = commands(block_with(readme, "sh", "sudo apt-get install ./target/deb/"))
    assert typed[0] == "tests/packaging/deb", "README's first command for Debian does not build the package"
    (folder / "install-debian.sh").write_text("\n".join(typed[1:]) + "\n")
    (folder / "preload.conf").write_text(block_with(readme, "conf", "shared_preload_libraries"))
    (folder / "first-example.sql").write_text(blocks(readme, "sql")[0])


def instructions(path):
    parser = DockerfileParser(path=str(path), env_replace=False)
    return [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]


def copied(value):
    """A COPY: the stage it takes from, the sources, the destination."""
    words = shlex.split(value)
    stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
    return stage, words[:-1], words[-1]


def shell(path):
    """The steps of a Dockerfile. A stage from scratch is the folder /image; every other is the machine itself."""
    base, lines = "", ["set -euo pipefail"]
    for name, value in instructions(path):
        if name == "FROM":
            base = "/image" if value.split()[0] == "scratch" else ""
        elif name == "ARG":
            key, _, default = value.partition("=")
            lines.append(f": ${{{key}:={default}}}; export {key}")
        elif name == "COPY":
            _, sources, destination = copied(value)
            target = shlex.quote(base + destination)
            # A folder is copied as what is in it.
            sources = [source + "." if source.endswith("/") else source for source in sources]
            lines += [f"mkdir -p {target}", f"cp -r {' '.join(sources)} {target}"]
        elif name == "RUN":
            lines.append(f"({value})")
        else:
            raise AssertionError(f"{path}: {name} is not something this test knows how to do")
    return "\n".join(lines) + "\n"


@case
def meta_json_is_as_pgxn_specifies():
    schema = json.loads((HERE / "pgxn.schema.json").read_text())
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    checker.check_schema(schema)
    prefix = f"pgq-jobs-{PACKAGE['version']}/"
    with zipfile.ZipFile(TARGET / "pgxn" / f"{prefix[:-1]}.zip") as archive:
        names = archive.namelist()
        meta = json.loads(archive.read(prefix + "META.json"))
    checker.validate(meta)
    assert all(name.startswith(prefix) for name in names), "the archive has files outside its folder"
    assert prefix == f"{meta['name']}-{meta['version']}/", "the archive and META.json name different releases"
    assert meta["abstract"] == PACKAGE["description"], "META.json and Cargo.toml describe different things"
    assert sorted(meta["provides"]) == [path.stem for path in ROOT.glob("*.control")]
    for extension in meta["provides"].values():
        assert extension["version"] == PACKAGE["version"]
        for file in (extension["file"], extension["docfile"]):
            assert prefix + file in names, f"{file} is not in the archive"
    for fault in ({"version": "0.1"}, {"name": "a b"}, {"license": "mine"}, {"licence": "mit"}, {"tags": []}, {"provides": {}},
                  {"prereqs": {"runtime": {"requires": {"PostgreSQL": "15"}}}}, {"maintainer": None}, {"meta-spec": {}}):
        assert not checker.is_valid(copy.deepcopy(meta) | fault), f"the checker does not mind {fault}"


@case
def each_step_of_the_dockerfiles_has_what_it_needs():
    for path in DOCKERFILES:
        stages, bases = set(), []
        steps = instructions(path)
        for name, value in steps:
            if name == "FROM":
                words = value.split()
                bases.append(words[0])
                assert words[0] == "scratch" or re.search(r":[^:]*[0-9a-z]", words[0]), f"{value}: which release?"
                stages.update(words[2:3])
            if name == "COPY":
                stage, sources, destination = copied(value)
                assert destination.startswith("/") and destination.endswith("/"), f"{value}: not a folder"
                assert stage is None or stage in stages, f"{value}: no stage {stage}"
                for source in sources if stage is None else []:
                    assert glob.glob(str(TARGET / "deb" / source)), f"{value}: target/deb has no {source}"
        assert bases, f"{path} has no FROM"
        assert shell(path)


@case
def the_cluster_mounts_and_preloads_the_extension_image():
    cluster, database = yaml.safe_load_all((HERE / "cloudnativepg/cluster.yaml").read_text())
    for document, kind in ((cluster, "Cluster"), (database, "Database")):
        assert (document["apiVersion"], document["kind"]) == ("postgresql.cnpg.io/v1", kind)
        assert sorted(document) == ["apiVersion", "kind", "metadata", "spec"]
    spec = cluster["spec"]
    server = spec["postgresql"]
    assert sorted(spec) == ["imageName", "instances", "postgresql", "storage"]
    assert sorted(server) == ["extensions", "parameters", "shared_preload_libraries"]
    assert server["shared_preload_libraries"] == ["pgq"]
    # CloudNativePG takes strings only.
    assert all(isinstance(value, str) for value in server["parameters"].values()), "a parameter is no string"
    conf = block_with(ROOT / "README.md", "conf", "shared_preload_libraries")
    for name, value in server["parameters"].items():
        assert re.search(rf"^{name} = {value}\b", conf, re.M), f"README says another {name}"
    (extension,) = server["extensions"]
    assert sorted(extension) == ["image", "name"] and extension["name"] == "pgq"
    tag = extension["image"]["reference"].rsplit("/", 1)[1]
    built = (HERE / "cloudnativepg/Dockerfile").read_text()
    assert f"--tag {tag} " in built, f"the Dockerfile's comment builds no {tag}"
    major, release = tag.split(":")[1].split("-")
    assert spec["imageName"].endswith(f":{major}-minimal-{release}"), "the server is of another release"
    assert f"FROM debian:{release} " in built and f"ARG PG_MAJOR={major}\n" in built
    assert int(major) >= 18, "extension_control_path is there from PostgreSQL 18 on"
    assert database["spec"]["cluster"]["name"] == cluster["metadata"]["name"]
    assert database["spec"]["extensions"] == [{"name": "pgq"}]


@case
def readme_says_what_the_tests_do():
    readme, library = ROOT / "README.md", (ROOT / "tests/lib.sh").read_text()
    image = (HERE / "Dockerfile").read_text()
    docker = commands(block_with(readme, "sh", "docker build"))
    for command in docker[:2]:
        assert f"#   {command}\n" in image, f"the Dockerfile's comment does not have: {command}"
    assert docker[0] == "tests/packaging/deb" and all(command.startswith("docker ") for command in docker[1:])
    source = commands(block_with(readme, "sh", "cargo install cargo-pgrx"))
    packages = set(source[0].removeprefix("sudo apt-get install ").split())
    needed = re.search(r"^need_packages\(\) \{.*?^\}", library, re.M | re.S).group()
    wanted = {name.replace("$PG_MAJOR", "15") for name in re.findall(r"missing\+=\(\"?([^\")]+)\"?\)", needed)}
    assert packages == wanted, f"README installs other packages than need_packages: {packages ^ wanted}"
    pinned = re.search(r'^pgrx = "=([0-9.]+)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    assert source[1] == f"cargo install cargo-pgrx --version {pinned} --locked"
    for part in ("cargo install cargo-pgrx --version", "cargo pgrx init", "cargo pgrx install --release"):
        assert part in library and any(command.startswith(part) for command in source), part


@case
def the_release_checklist_names_what_is_there():
    checklist = (HERE / "RELEASE.md").read_text()
    named = re.findall(r"`((?:tests|sql|src)/[^` ]*|[A-Za-z]+\.(?:toml|md|lock))", checklist)
    assert len(named) >= 5, f"the checklist names only {named}"
    for path in named:
        if not re.search(r"[A-Z]-|--", path):
            assert (ROOT / path).exists(), f"RELEASE.md names {path}, which is not there"


def check(names):
    failed = 0
    for name in names:
        try:
            CASES[name]()
            print(f"test {name} ... ok", flush=True)
        except Exception as error:
            failed += 1
            print(f"test {name} ... FAILED: {type(error).__name__}: {error}", flush=True)
    print(f"{len(names) - failed} {failed}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--list"]:
            print("\n".join(CASES))
        case ["readme", folder]:
            write_readme(Path(folder))
        case ["shell", path]:
            print(shell(Path(path)), end="")
        case ["check", *names]:
            sys.exit(1 if check(names or list(CASES)) else 0)
        case _:
            sys.exit(__doc__)
