"""What lies in deploy/ is valid by the schemas of those who read it, and fits the service: settings, ports, times."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from promql import DEPLOY, selected
from proponent.cli.main import app
from proponent.gateway.effective_settings import load_settings, variable_of
from proponent.gateway.settings import Settings
from test_architecture import ROOT

KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VERSION = "1.37"
KUBECTL = shutil.which("kubectl")
# How long TorchServe gets to end by itself, on top of the drain.
_TORCHSERVE_S = 8
GATEWAY = "deployment.yaml"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def manifests() -> list[Path]:
    return sorted(p for p in BASE.glob("*.yaml") if p.name not in ("kustomization.yaml", "serve.yaml"))


def container() -> dict[str, Any]:
    [deployment] = documents(BASE / GATEWAY)
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8")))


def longest_end_s() -> float:
    settings = Settings()
    return settings.drain_delay + settings.drain_timeout + _TORCHSERVE_S


@pytest.mark.parametrize("path", manifests(), ids=lambda path: path.name)
def test_a_manifest_is_valid_by_the_schema_of_kubernetes(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schema_refuses_a_misspelt_key() -> None:
    [deployment] = documents(BASE / GATEWAY)
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSION, strict=True)


def test_kustomizations_name_files_that_exist_and_leave_none_out() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        [content] = documents(path)
        patches = [patch["path"] for patch in content.get("patches", ())]
        generated = [name for made in content.get("configMapGenerator", ()) for name in made["files"]]
        named = {*content.get("resources", ()), *content.get("components", ()), *patches, *generated}
        assert all((path.parent / name).exists() for name in named), path
        beside = {each.name for each in path.parent.glob("*.yaml")} - {path.name}
        assert beside <= named, f"{path}: left out"


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl to build overlays with")
@pytest.mark.parametrize("overlay", ["cpu", "cuda"])
def test_an_overlay_builds_and_all_of_it_is_valid(overlay: str) -> None:
    command = [str(KUBECTL), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    for kind, document in built.items():
        if kind != "PodMonitor":  # the operator's own
            kubernetes_validate.validate(document, VERSION, strict=True)
    pod = built["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"].endswith(f":{overlay}")
    assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) == (overlay == "cuda")
    made = built["ConfigMap"]["metadata"]["name"]
    assert made.startswith("proponent-")
    labels = built["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = built[kind]["spec"]
        chosen = spec.get("podSelector", spec.get("selector"))
        assert (chosen.get("matchLabels", chosen)).items() <= labels.items(), kind


def test_the_pod_is_confined() -> None:
    [deployment] = documents(BASE / GATEWAY)
    pod, own = deployment["spec"]["template"]["spec"], container()["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    [store] = [volume for volume in pod["volumes"] if volume["name"] == "store"]
    assert store["persistentVolumeClaim"]["readOnly"] is True
    writable = [mount["mountPath"] for mount in container()["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]
    assert (
        {"cpu", "memory"} == container()["resources"]["requests"].keys() == container()["resources"]["limits"].keys()
    )


def test_an_orchestrator_waits_as_long_as_the_service_may_take_to_end() -> None:
    [deployment] = documents(BASE / GATEWAY)
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= longest_end_s()
    assert float(compose()["services"]["proponent"]["stop_grace_period"].removesuffix("s")) >= longest_end_s()


def test_the_settings_of_the_pod_are_settings_and_closed(tmp_path: Path) -> None:
    """The files they name are mounted where they say, and would be refused were they insecure."""
    [content] = documents(BASE / "serve.yaml")
    mounts = [mount["mountPath"] for mount in container()["volumeMounts"]]
    here = dict(content)
    for name in ("tls_certificate", "tls_key", "tokens_file"):
        assert any(content[name].startswith(f"{mount}/") for mount in mounts), name
        file = tmp_path / name
        file.touch()
        here[name] = str(file)
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(here))
    settings = load_settings({}, tmp_path / "serve.yaml").settings
    assert settings.is_closed and not settings.insecure and str(settings.store) in mounts
    assert settings.watch  # nobody can send a command to a replica, whose store is read-only
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert settings.grpc_address.endswith(f":{ports['grpc']}") and settings.http_address.endswith(
        f":{ports['https']}"
    )
    variables = {variable_of(name) for name in Settings.model_fields} | {"PROPONENT_CONFIG"}
    assert {each["name"] for each in container()["env"]} <= variables


def commands() -> dict[str, Any]:
    root: Any = typer.main.get_command(app)
    return {
        name: command.make_context(name, [], resilient_parsing=True).command
        for name, command in root.commands.items()
    }


def assert_is_command(words: list[str]) -> None:
    """A command line that the project has: its name and its flags."""
    name, *arguments = words
    known = {flag for parameter in commands()[name].params for flag in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


def test_probes_ask_what_there_is() -> None:
    pod = container()
    for probe in ("startupProbe", "readinessProbe"):
        words = pod[probe]["exec"]["command"]
        assert words[0] == "proponent"
        assert_is_command(words[1:])
        [content] = documents(BASE / "serve.yaml")
        assert content["tls_certificate"] in words
    assert pod["startupProbe"]["periodSeconds"] * pod["startupProbe"]["failureThreshold"] >= Settings().start_timeout
    assert pod["livenessProbe"]["httpGet"]["path"] == "/healthz"
    names = {port["name"] for port in pod["ports"]}
    [service] = documents(BASE / "service.yaml")
    assert {port["targetPort"] for port in service["spec"]["ports"]} == names
    [policy] = documents(BASE / "networkpolicy.yaml")
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == names


def test_the_autoscaler_goes_by_a_metric_of_the_service() -> None:
    [scaler] = documents(BASE / "horizontalpodautoscaler.yaml")
    [metric] = scaler["spec"]["metrics"]
    [rules] = documents(KUBERNETES / "components" / "prometheus-operator" / "adapter.yaml")
    [rule] = rules["rules"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    assert metric["pods"]["target"]["type"] == "AverageValue"
    assert float(metric["pods"]["target"]["averageValue"]) < Settings().max_explanations
    [series] = selected(rule["seriesQuery"])
    query = rule["metricsQuery"].replace("<<.Series>>", series.metric).replace("<<.GroupBy>>", "pod")
    [asked] = selected(query.replace("<<.LabelMatchers>>", 'pod="a"'))
    assert asked.metric == series.metric == "proponent_requests_in_flight"
    assert scaler["spec"]["minReplicas"] >= 2


RAY_POD = {
    "type": "object",
    "required": ["rayStartParams", "template"],
    "additionalProperties": False,
    "properties": {
        "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
        "template": {"type": "object"},
    },
}
RAY_WORKERS = {
    **RAY_POD,
    "required": [*RAY_POD["required"], "groupName", "replicas", "minReplicas", "maxReplicas"],
    "properties": {
        **RAY_POD["properties"],
        "groupName": {"type": "string"},
        **{name: {"type": "integer", "minimum": 0} for name in ("replicas", "minReplicas", "maxReplicas")},
    },
}
RAY_CLUSTER = {
    "type": "object",
    "required": ["headGroupSpec", "workerGroupSpecs"],
    "additionalProperties": False,
    "properties": {"headGroupSpec": RAY_POD, "workerGroupSpecs": {"type": "array", "items": RAY_WORKERS}},
}
RAY_JOB = {
    "type": "object",
    "required": ["entrypoint", "rayClusterSpec"],
    "additionalProperties": False,
    "properties": {
        "entrypoint": {"type": "string"},
        "backoffLimit": {"type": "integer", "minimum": 0},
        "shutdownAfterJobFinishes": {"const": True},
        "ttlSecondsAfterFinished": {"type": "integer", "minimum": 0},
        "rayClusterSpec": RAY_CLUSTER,
    },
}
"""The part of KubeRay's API, v1, that the job makes use of; its pods are Kubernetes' own."""


def ray_groups() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    [job] = documents(DEPLOY / "kuberay" / "rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(job["spec"], RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    return job["spec"], [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def assert_pods_are_valid(groups: list[dict[str, Any]]) -> None:
    for group in groups:
        metadata = {"name": "pods", **group["template"]["metadata"]}
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}}
        content = {**template, "template": {**group["template"], "metadata": metadata}}
        kubernetes_validate.validate(content, VERSION, strict=True)


def test_the_rebuild_on_a_cluster_is_valid_and_a_command_that_there_is() -> None:
    job, groups = ray_groups()
    assert_pods_are_valid(groups)
    name, *words = job["entrypoint"].split()
    assert name == "proponent"
    assert_is_command(words)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**job, "entryPoint": ""}, RAY_JOB)


def test_every_node_of_a_rebuild_sees_the_store_and_the_spec_at_the_same_paths() -> None:
    job, groups = ray_groups()
    words = job["entrypoint"].split()
    asked = float(words[words.index("--gpus-per-worker") + 1])
    mounts, identities = [], []
    for group in groups:
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        mounts.append({each["mountPath"]: each["name"] for each in container["volumeMounts"]})
        identities.append(pod["securityContext"])
        assert set(mounts[-1].values()) == {volume["name"] for volume in pod["volumes"]}
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        gpus = float(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        assert gpus == (0 if "num-cpus" in group["rayStartParams"] else asked)
    assert all(each == mounts[0] for each in mounts) and all(each == identities[0] for each in identities)
    assert {words[words.index("--store") + 1], words[2]} <= mounts[0].keys()
    [deployment] = documents(BASE / GATEWAY)
    served = deployment["spec"]["template"]["spec"]
    assert identities[0] == served["securityContext"]  # or the service could not read what it wrote


ROW_SHARDS = KUBERNETES / "components" / "row-shards"


def row_cluster() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    [cluster] = documents(DEPLOY / "kuberay" / "rowcluster.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    jsonschema.validate(cluster["spec"], RAY_CLUSTER)
    return cluster, [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]


def test_the_cluster_of_rows_is_valid_and_reads_what_the_service_does() -> None:
    """At the same path, with the same rights, and to read alone."""
    _, groups = row_cluster()
    assert_pods_are_valid(groups)
    [deployment], [content] = documents(BASE / GATEWAY), documents(BASE / "serve.yaml")
    served = deployment["spec"]["template"]["spec"]
    for group in groups:
        pod = group["template"]["spec"]
        [own] = pod["containers"]
        mounts = {each["mountPath"]: each for each in own["volumeMounts"]}
        assert mounts[content["store"]]["readOnly"] and own["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {each["name"] for each in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"] == served["securityContext"]


def test_the_service_joins_the_cluster_of_rows_as_a_node_that_computes_nothing() -> None:
    [join], [scaler], [policy] = (
        documents(ROW_SHARDS / f"{name}.yaml") for name in ("join", "replicas", "networkpolicy")
    )
    cluster, groups = row_cluster()
    kubernetes_validate.validate(policy, VERSION, strict=True)
    [own] = join["spec"]["template"]["spec"]["containers"]
    words = own["command"][2].split()
    assert own["command"][:2] == ["sh", "-c"] and container()["args"] == ["serve"]
    assert words[:3] == ["ray", "start", f"--address={cluster['metadata']['name']}-head-svc:6379"]
    assert "--num-cpus=0" in words and words[-4:] == ["&&", "exec", "proponent", '"$0"']
    given = {each["name"].removeprefix("PROPONENT_").lower(): each["value"] for each in own["env"]}
    settings = Settings(**given)
    shards, replicas = settings.row_shards, scaler["spec"]["maxReplicas"]
    workers = groups[1]
    processors = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    # Two bundles of every replica, while one is switched to the other.
    assert workers["replicas"] * processors >= 2 * replicas * shards * settings.shard_cores
    [chosen] = policy["spec"]["podSelector"]["matchExpressions"]
    labels = [group["template"]["metadata"]["labels"]["app.kubernetes.io/component"] for group in groups]
    [deployment] = documents(BASE / GATEWAY)
    labels.append(deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"])
    assert set(chosen["values"]) == set(labels)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_a_compose_file_is_valid_by_the_compose_specification(name: str) -> None:
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text(encoding="utf-8"))
    jsonschema.validate(compose(name), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**compose(name), "service": {}}, schema)


def test_compose_mounts_what_it_names_and_confines_the_service() -> None:
    content = compose()
    for service in content["services"].values():
        assert set(service.get("secrets", ())) <= content["secrets"].keys()
        for volume in service.get("volumes", ()):
            if isinstance(volume, str) and volume.startswith("."):
                assert (DEPLOY / volume.split(":")[0]).is_dir(), volume
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    own = content["services"]["proponent"]
    assert own["read_only"] is True and own["volumes"][0]["read_only"] is True and own["user"] == "10001:10001"
    named = {variable_of(name): name for name in Settings.model_fields}
    for variable, value in own["environment"].items():
        assert variable in named and value.rpartition("/")[2] in own["secrets"], variable
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"][0]
    assert scrape["tls_config"]["ca_file"].rpartition("/")[2] in content["services"]["prometheus"]["secrets"]
    [target] = scrape["static_configs"][0]["targets"]
    assert target.split(":")[0] in content["services"] and scrape["scheme"] == "https"
    mounts = content["services"]["grafana"]["volumes"]
    assert any(mount.endswith(":/etc/grafana/dashboards:ro") for mount in mounts)


def test_who_scrapes_shows_a_token() -> None:
    """The service asks for tokens in both deployments, and tells numbers to none but those of the scope admin."""
    [scrape] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    name = scrape["authorization"]["credentials_file"].removeprefix("/run/secrets/")
    assert name in compose()["services"]["prometheus"]["secrets"]
    written = f"--scopes admin --file tokens > {Path(compose()['secrets'][name]['file']).name}"
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    [monitor] = documents(KUBERNETES / "components" / "prometheus-operator" / "podmonitor.yaml")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert written in readme and f"`{credentials['name']}` (key `{credentials['key']}`" in readme


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(" ", 1)[1].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_image_runs_what_there_is_as_nobody_special() -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["proponent"]
    assert_is_command(json.loads(instructions("CMD")[0]))
    [check] = instructions("HEALTHCHECK")
    assert_is_command(json.loads(check[check.index("[") :])[1:])
    assert [user.split(":")[0] for user in instructions("USER")] == ["10001"]
    assert "PROPONENT_INSECURE" not in DOCKERFILE
    assert re.search(r"https?://", DOCKERFILE) is None


def test_the_image_for_processors_asks_for_no_cuda_wheel(tmp_path: Path) -> None:
    """The command that edits the requirements is the Dockerfile's own."""
    [run] = [line for line in instructions("RUN") if line.startswith("sed")]
    sed = run.partition("&&")[0].strip()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["sh", "-c", sed], cwd=tmp_path, check=True)
    before = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    after = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [each for each in before if "faiss" not in each] == [each for each in after if "faiss" not in each]
    [faiss] = [each for each in after if "faiss" in each]
    assert re.fullmatch(r"faiss-cpu>=[\d.]+", faiss)


def test_the_context_of_the_image_holds_no_secret_and_no_data() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]}
    assert copied == allowed


def test_secrets_never_reach_the_repository() -> None:
    assert (DEPLOY / "secrets" / ".gitignore").read_text(encoding="utf-8") == "*\n!.gitignore\n"
