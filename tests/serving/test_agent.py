"""The agent on a real Triton and a real object store: what serves, what is refused, and what survives a kill."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from modelport.connection import Connection, Role, S3Key
from modelport.errors import ModelportError
from modelport.serving import AgentSettings, Heartbeat, Pace
from modelport.serving.agent.main import Agent
from tests.serving import tiny_int8
from tests.serving import tiny_release as tiny
from tests.serving.waiting import until


def test_a_swap_serves_the_new_release_and_keeps_shared_steps(stand, start) -> None:
    model, image = "swap", tiny.image()
    first, second = stand.publish(model, threshold=0.3), stand.publish(model, threshold=0.7)
    agent = start.agent(model)
    assert agent.get("/healthz").is_success

    agent.want({model: first})
    agent.serving(model, first)
    assert agent.get("/readyz").is_success
    assert np.array_equal(stand.ask(model, image), tiny.answer(image, 0.3)["mask"])
    before = stand.loaded(model)

    agent.want({model: second})
    state = agent.serving(model, second).models[model]
    # The old one can still be asked by name: gateways that have not looked yet lose nothing.
    assert {release.digest for release in state.loaded} == {first, second}
    assert np.array_equal(stand.ask(f"{model}.{first[:12]}", image), tiny.answer(image, 0.3)["mask"])
    assert np.array_equal(stand.ask(model, image), tiny.answer(image, 0.7)["mask"])

    until(lambda: [r.digest for r in agent.state().models[model].loaded] == [second], "the old release to go")
    until(lambda: len(stand.loaded(model)) == len(before), "its network to go")
    shared = {name for name in before if ".preprocess." in name or ".postprocess." in name}
    assert shared < set(stand.loaded(model))
    assert np.array_equal(stand.ask(model, image), tiny.answer(image, 0.7)["mask"])
    folders = {path.name for path in stand.repository.iterdir() if path.name.startswith((f"{model}.", ".writing"))}
    assert folders == set(stand.loaded(model)) - {model}
    assert f'modelport_agent_serving{{model="{model}",release="{second}"}} 1.0' in agent.get("/metrics").text


class TestPrecision:
    """A release is served in the arithmetic that is asked for, and only in one that it carries."""

    def test_int8_is_brought_up_beside_fp32_and_back(self, stand, start) -> None:
        model, image = "int8", tiny.image()
        manifest, files = tiny_int8.release(model)
        digest = stand.put(manifest, files)
        agent = start.agent(model)
        agent.want({model: digest})
        agent.serving(model, digest)
        fp32 = stand.ask(model, image)
        assert self.loaded(agent, model) == ("fp32", f"{model}.{digest[:12]}")

        agent.want({model: {"release": digest, "precision": "int8"}})
        name = f"{model}.{digest[:12]}-int8"
        until(lambda: self.loaded(agent, model) == ("int8", name), "int8 to serve", 40)
        int8 = stand.ask(model, image)
        assert np.mean(int8 != fp32) <= 0.03
        (network,) = (p for p in stand.repository.glob(f"{model}.network.*/1/model.onnx") if self.is_int8(p))
        assert network.read_bytes() == files[tiny_int8.INT8_FILE]
        until(lambda: f"{model}.{digest[:12]}" not in stand.loaded(model), "fp32 to go")
        assert np.array_equal(stand.ask(model, image), int8)

        # What served comes back in its arithmetic, before the source is read.
        agent.process.kill()
        agent = start.agent(model, cache=agent.cache)
        until(lambda: self.loaded(agent, model) == ("int8", name), "int8 to serve again", 40)
        agent.want({model: digest})
        until(lambda: self.loaded(agent, model)[0] == "fp32", "fp32 to serve", 40)
        assert np.array_equal(stand.ask(model, image), fp32)

    def test_a_release_without_it_is_refused_and_the_old_one_serves_on(self, stand, agent) -> None:
        model = "noint8"
        digest = stand.publish(model)
        agent.want({model: digest})
        agent.serving(model, digest)
        agent.want({model: {"release": digest, "precision": "int8"}})
        error = agent.error(model, "carries no int8")
        assert f"`modelport export {model} {digest} --precision int8`" in error
        state = agent.state().models[model]
        assert (state.serving, [each.precision for each in state.loaded]) == (digest, ["fp32"])
        assert np.array_equal(stand.ask(model, tiny.image()), tiny.answer(tiny.image(), 0.5)["mask"])

    def test_int8_that_answers_otherwise_is_refused_by_the_replay(self, stand, agent) -> None:
        model = "wrongint8"
        digest = stand.put(*tiny_int8.release(model, int8_threshold=0.6))
        agent.want({model: digest})
        agent.serving(model, digest)
        agent.want({model: {"release": digest, "precision": "int8"}})
        assert "at most 3.000% is allowed" in agent.error(model, "answered wrongly")
        assert self.loaded(agent, model)[0] == "fp32"

    def test_fp16_without_a_gpu_is_served_as_fp32_and_said(self, stand, start) -> None:
        model = "fp16"
        digest = stand.publish(model)
        agent = start.agent(model)
        agent.want({model: {"release": digest, "precision": "fp16"}})
        agent.serving(model, digest)
        assert self.loaded(agent, model) == ("fp32", f"{model}.{digest[:12]}")
        assert "without a GPU it is served in fp32" in agent.process.said()

    @staticmethod
    def loaded(agent, model: str) -> tuple[str, str]:
        """Precision and Triton's name of what serves."""
        state = agent.state().models.get(model)
        if state is None or state.serving is None:
            return "", ""
        (release,) = (each for each in state.loaded if each.digest == state.serving)
        return release.precision, release.triton_name

    @staticmethod
    def is_int8(path: Path) -> bool:
        return b"QuantizeLinear" in path.read_bytes()


class TestBadReleases:
    """The old release goes on serving, the reason is said, and nothing of the bad one stays."""

    def test_a_flipped_colour_channel_is_refused_by_the_replay(self, stand, agent) -> None:
        model, image = "flipped", tiny.image()
        good, flipped = stand.publish(model), stand.publish(model, flipped=True)
        agent.want({model: good})
        agent.serving(model, good)

        agent.want({model: flipped})
        error = agent.error(model, "golden sample ramp.png is answered wrongly")
        assert "mask" in error
        assert agent.state().models[model].serving == good
        assert np.array_equal(stand.ask(model, image), tiny.answer(image, 0.5)["mask"])
        assert agent.get("/readyz").is_success, "a replica that serves the old release must stay in traffic"
        until(lambda: not any(flipped[:12] in name for name in stand.loaded(model)), "the bad release to go")
        metric = f'modelport_agent_failures_total{{model="{model}",reason="replay"}}'
        assert f"{metric} 1.0" in agent.get("/metrics").text
        time.sleep(1.5)
        assert f"{metric} 1.0" in agent.get("/metrics").text, "a bad release is not tried again and again"

        agent.want({model: good})
        until(lambda: agent.state().models[model].error is None, "the error to go with the bad desire")

    def test_a_corrupted_object_leaves_the_old_release_serving(self, stand, agent) -> None:
        model = "corrupted"
        good = stand.publish(model)
        bad = stand.publish(model, threshold=0.6, damage="network/model.onnx")
        agent.want({model: good})
        agent.serving(model, good)
        agent.want({model: bad})
        error = agent.error(model, "corrupted")
        assert "network/model.onnx" in error
        assert agent.state().models[model].serving == good
        assert not any(bad[:12] in path.name for path in stand.repository.iterdir()), (
            "nothing of it reached Triton's folder"
        )

    def test_a_graph_that_does_not_load_is_given_up_and_leaves_nothing(self, stand, agent) -> None:
        model = "broken"
        good = stand.publish(model)
        junk = {"network/model.onnx": b"this is no graph"}
        bad = stand.publish(model, **junk)
        agent.want({model: good})
        agent.serving(model, good)
        before = stand.loaded(model)
        agent.want({model: bad})
        agent.error(model, "could not load")
        until(lambda: f"release {bad[:12]} is refused" in agent.process.said(), "the agent to give up")
        assert agent.state().models[model].serving == good
        until(lambda: stand.loaded(model) == before, "the steps of the bad release to go")

    def test_a_release_of_another_model_and_one_with_code_are_refused(self, stand, agent) -> None:
        model = "strict"
        agent.want({model: stand.publish("lenient")})
        agent.error(model, "is of model lenient")
        python_step = {
            "triton/network/config.pbtxt": tiny.configs(model)["network"].replace("onnxruntime", "python").encode()
        }
        agent.want({model: stand.publish(model, **python_step)})
        agent.error(model, "backend")
        assert stand.loaded(model) == []


def test_a_first_release_that_is_bad_is_said_so_and_not_ready(stand, start) -> None:
    model = "firstbad"
    agent = start.agent(model)
    agent.want({model: stand.publish(model, flipped=True)})
    agent.error(model, "answered wrongly")
    answer = agent.get("/readyz")
    assert answer.status_code == 503
    assert "answered wrongly" in answer.json()["errors"][model]
    assert model not in stand.loaded(model), "no alias before a release has answered"


def test_killed_triton_is_noticed_and_loaded_again(stand, start) -> None:
    model, image = "phoenix", tiny.image()
    digest = stand.publish(model)
    agent = start.agent(model)
    agent.want({model: digest})
    agent.serving(model, digest)
    stand.triton.kill()
    agent.error(model, "did not")
    assert agent.get("/readyz").status_code == 503
    stand.start_triton()
    agent.serving(model, digest)
    assert agent.state().models[model].error is None
    assert np.array_equal(stand.ask(model, image), tiny.answer(image, 0.5)["mask"])


def test_agent_and_triton_killed_serve_again_with_the_object_store_away(stand, start, tmp_path) -> None:
    model, image = "survivor", tiny.image()
    digest = stand.publish(model)
    agent = start.agent(model)
    agent.want({model: digest})
    agent.serving(model, digest)
    agent.process.kill()
    stand.restart_triton()

    away = start.agent(model, connection=stand.away(), cache=agent.cache, source="log")
    state = away.serving(model, digest)
    assert state.source_error, "that the promotion log cannot be read is said"
    assert np.array_equal(stand.ask(model, image), tiny.answer(image, 0.5)["mask"])
    away.process.kill()

    # What lies on disk is not believed: a changed byte is found before anything of it is loaded.
    stand.restart_triton()
    graph = agent.cache / model / digest / "network" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    damaged = start.agent(model, connection=stand.away(), cache=agent.cache, source="log")
    damaged.error(model, "object store")
    assert stand.loaded(model) == []
    damaged.process.kill()

    mended = start.agent(model, cache=agent.cache)
    mended.serving(model, digest)


def test_killed_in_mid_swap_the_alias_never_stops_answering(stand, start) -> None:
    model, image = "relentless", tiny.image()
    thresholds = (0.2, 0.4, 0.6, 0.8)
    digests = [stand.publish(model, threshold=threshold) for threshold in thresholds]
    masks = [tiny.answer(image, threshold)["mask"].tobytes() for threshold in thresholds]
    agent = start.agent(model, grace=0.5)
    agent.want({model: digests[0]})
    agent.serving(model, digests[0])

    stop, failures, answers = threading.Event(), list[str](), list[bytes]()

    def ask() -> None:
        while not stop.wait(0.01):
            try:
                answers.append(stand.ask(model, image).tobytes())
            except ModelportError as error:
                failures.append(str(error))

    traffic = threading.Thread(target=ask)
    traffic.start()
    try:
        for turn, digest in enumerate(digests[1:]):
            agent.want({model: digest})
            time.sleep(0.25 + 0.2 * turn)  # in the middle of fetching, loading, switching, whichever it is
            agent.process.kill()
            agent.process.start()
            agent.serving(model, digest)
    finally:
        stop.set()
        traffic.join()
    assert failures == []
    assert len(answers) > 50
    assert set(answers) == set(masks)
    until(lambda: len(stand.loaded(model)) == 5, "leftovers of the killed agents to go")


def test_following_the_promotion_log_and_telling_the_store(stand, start) -> None:
    from datetime import UTC, datetime

    from modelport.promotion import Action, LogEntry, read_log
    from modelport.promotion.log import append

    model = "logged"
    digest = stand.publish(model)
    agent = start.agent(model, source="log")
    until(lambda: model in agent.state().models, "the model to be known")
    assert agent.state().models[model].desired is None
    entry = {"seq": 1, "time": datetime.now(UTC), "who": "tester", "action": Action.PROMOTE, "from": None, "to": digest}
    entry |= {"why": "a test", "evidence": None, "evidence_sha256": None, "previous": None}
    append(stand.store, read_log(stand.store, model), LogEntry.model_validate(entry))
    agent.serving(model, digest)

    def beat() -> Heartbeat | None:
        found = Heartbeat.model_validate_json(stand.store.get(f"replicas/{model}/replica0.json"))
        return found if found.state.serving else None

    assert until(beat, "a heartbeat").state.serving == digest


def test_a_second_agent_on_the_same_repository_is_refused(stand, start) -> None:
    first = start.agent("lonely")
    second = start.agent("lonely", wait=False, cache=first.cache)
    assert second.process.running.wait(timeout=20) == 4
    assert "another agent has this model repository" in second.process.said()


def test_a_damaged_file_of_pins_changes_nothing_and_is_said(stand, start) -> None:
    model = "pinned"
    digest = stand.publish(model)
    agent = start.agent(model)
    agent.want({model: digest})
    agent.serving(model, digest)
    for text, complaint in (("{", "not JSON"), ('{"pinned": "abc"}', "not a digest"), ("[]", "not a JSON object")):
        agent.pins.write_text(text)
        until(lambda part=complaint: part in (agent.state().source_error or ""), f"the complaint {complaint!r}")
        state = agent.state()
        assert (state.ready, state.models[model].serving, state.models[model].desired) == (True, digest, digest)
    agent.want({model: digest})
    until(lambda: agent.state().source_error is None, "the complaint to go")


def test_an_admin_key_that_is_wrong_is_said(stand, start) -> None:
    agent = start.agent("locked", connection=stand.connection.model_copy(update={"triton_admin_key": "wrong"}))
    agent.want({"locked": stand.publish("locked")})
    agent.error("locked", "may not be told")


def test_a_trainers_key_cannot_publish_what_an_agent_would_serve(stand) -> None:
    from modelport.errors import Refused
    from modelport.objects import ObjectStore

    store = ObjectStore.connect(stand.connection, Role.TRAINER)
    with pytest.raises(Refused):
        store.put("promotions/stolen/log.json", json.dumps({}).encode())


def test_a_file_without_a_model_takes_it_away_and_leaves_the_others_in_traffic(stand, start) -> None:
    stays, goes, image = "stays", "goes", tiny.image()
    kept, gone = stand.publish(stays), stand.publish(goes, threshold=0.6)
    agent = start.agent()
    agent.want({stays: kept})
    agent.serving(stays, kept)
    assert agent.get("/readyz").is_success

    # A model that is new here, with nothing promoted: the replica stays in traffic for the one that it serves.
    agent.pins.write_text(json.dumps({stays: kept, goes: None}))
    until(lambda: goes in agent.state().models, "the new model to be known")
    assert agent.get("/readyz").is_success
    agent.pins.write_text(json.dumps({stays: kept, goes: gone}))
    until(lambda: agent.get("/readyz").is_success and agent.state().models[goes].serving == gone, "the new model")

    agent.pins.write_text(json.dumps({stays: kept}))
    until(lambda: list(agent.state().models) == [stays], "the model to go")
    until(lambda: stand.loaded(goes) == [], "its alias, release and steps to be unloaded")
    assert not [path for path in stand.repository.iterdir() if path.name.partition(".")[0] == goes]
    assert not (agent.cache / goes).exists(), "a restarted agent must not bring it back"
    assert 'converged{model="goes"}' not in agent.get("/metrics").text, "or its alert would never end"
    assert np.array_equal(stand.ask(stays, image), tiny.answer(image, 0.5)["mask"])
    assert agent.get("/readyz").is_success

    agent.pins.write_text(json.dumps({stays: kept, goes: gone}))
    agent.serving(goes, gone)


def test_a_replica_whose_only_model_has_no_version_yet_is_ready(stand, start) -> None:
    agent = start.agent()
    agent.pins.write_text(json.dumps({"unpromoted": None}))
    until(lambda: "unpromoted" in agent.state().models, "the model to be known")
    until(lambda: agent.get("/readyz").is_success, "the replica to be ready: there is nothing to wait for")
    state = agent.state().models["unpromoted"]
    assert (state.desired, state.serving, state.error) == (None, None, None)


def test_a_replica_that_serves_nothing_is_ready_only_after_it_read_that_nothing_is_desired(tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    settings = AgentSettings(tmp_path / "repository", pins=pins, pace=Pace(interval=0.05))
    keys = {Role.SERVER: S3Key(access_key="key", secret_key="secret")}
    agent = Agent(settings, Connection(s3_endpoint="http://127.0.0.1:9", s3_keys=keys, triton_grpc="127.0.0.1:9"))
    agent.start()
    try:
        until(lambda: agent.state().source_error, "the source to be found away")
        assert not agent.state().ready, "Kubernetes would end the last replica that serves"
        pins.write_text("{}")
        until(lambda: agent.state().ready, "the replica to be ready: there is nothing to serve")
    finally:
        agent.stop()
