"""The benchmark of the training step: its counts, its ratios, and the equality of the peer."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import common, train_step, worker
from benchmarks.cases import CASES, synthetic_batch
from benchmarks.flops import graph_flops

WITHOUT_TORCH = not all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
needs_torch = pytest.mark.skipif(
    WITHOUT_TORCH, reason="PyTorch is missing: pip install -r benchmarks/requirements.txt"
)


def run(folder, *flags):
    """Returns the output and the results of the benchmark for the tiny case."""
    path = folder / "step.json"
    command = [sys.executable, os.path.join(ROOT, "benchmarks", "train_step.py")]
    command += ["--model=tiny", "--steps=3", "--warmup=1", "--rounds=1", f"--json={path}", *flags]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=400)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(path.read_text())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return run(tmp_path_factory.mktemp("benchmark"), "--no-peer")


@pytest.mark.slow
def test_the_step_is_timed_without_the_peer(outputs):
    text, results = outputs
    assert {"cpu", "cores", "load"} <= set(results["machine"])
    case = results["cases"]["tiny"]
    assert set(case["runs"]) == {"tf_mural graph"} and "ratio" not in case
    assert case["facts"]["tf_mural"]["versions"]["tensorflow"]
    assert text.count("tiny: step") == 3 and "triples/s" in text


@pytest.mark.slow
def test_rates_are_computed_from_the_median_step(outputs):
    result = outputs[1]["cases"]["tiny"]
    timing, batch = result["runs"]["tf_mural graph"], result["case"]["batch"]
    assert batch == CASES["tiny"].batch and len(timing["seconds"]) == 3
    median = sorted(timing["seconds"])[1]
    assert timing["milliseconds"] == pytest.approx(1000 * median)
    assert timing["triples_per_second"] == pytest.approx(batch / median)
    peak = result["peak_flops_per_second"]["tf_mural"]
    assert timing["share_of_peak"] == pytest.approx(result["flops"] / median / peak)
    assert 0 < timing["share_of_peak"] < 1


@pytest.mark.slow
def test_flops_equal_the_sum_over_the_layers(outputs):
    case, width, layers = CASES["tiny"], 96, 2
    texts, tokens = 2 * case.batch, case.tokens
    projections = 4 * width**2 + 2 * width * 4 * width
    attention = 2 * tokens * width
    text = texts * (layers * tokens * 2 * (projections + attention) + 2 * width * 640)
    # The stem has stride 2, and the four stages have strides 2, 1, 2 and 2. Images of 64 pixels are
    # therefore reduced to 32 pixels by the stem, and to 16, 16, 8 and 4 pixels by the stages.
    image = 2 * 32**2 * 27 * 16
    blocks = [(16, 16, 1, 32, 16), (16, 24, 3, 16, 16), (24, 48, 3, 16, 8), (48, 48, 3, 8, 8)]
    for filters_in, filters_out, expansion, size, output_size in [*blocks, (48, 96, 3, 8, 4)]:
        expanded, squeezed = filters_in * expansion, max(1, filters_in // 4)
        image += 2 * size**2 * filters_in * expanded * (expansion > 1)
        image += 2 * output_size**2 * expanded * (9 + filters_out) + 4 * expanded * squeezed
    image += 2 * 96 * 640
    result = outputs[1]["cases"]["tiny"]
    assert result["facts"]["tf_mural"]["forward_flops"] == text + case.batch * image
    # The backward pass of a layer needs twice the FLOPs of its forward pass. The backward pass of
    # the stem needs only the FLOPs of its forward pass, because pixels need no gradient. Each of
    # the three terms computes matrix products in two directions. The losses of all languages are
    # the product of the vector of the losses of the examples with a one-hot matrix of languages.
    # There are four such products, because each of the two texts occurs in two terms.
    loss = 3 * 3 * 2 * 2 * case.batch**2 * 640
    stem = case.batch * 2 * 32**2 * 27 * 16
    languages = 4 * 2 * case.batch * 6
    assert result["flops"] == 3 * (text + case.batch * image) - stem + loss + languages


def flops(function, *shapes):
    import tensorflow as tf

    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return graph_flops(tf.function(function, autograph=False).get_concrete_function(*specs).graph)


def gradients(function):
    """Returns a function that computes `function` and the gradients of both inputs."""
    import tensorflow as tf

    def value_and_gradients(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            out = tf.reduce_sum(tf.square(function(x, y)))
        return tape.gradient(out, [x, y])

    return value_and_gradients


@pytest.mark.parametrize("transpose_a", [False, True])
def test_a_multiply_add_of_a_matrix_product_counts_as_two(transpose_a):
    import tensorflow as tf

    def multiply(x, y):
        return tf.matmul(x, y, transpose_a=transpose_a)

    left = (7, 5) if transpose_a else (5, 7)
    assert flops(multiply, left, (7, 11)) == 2 * 5 * 7 * 11
    assert flops(gradients(multiply), left, (7, 11)) == 3 * 2 * 5 * 7 * 11
    batch = (3, *left)
    assert flops(multiply, batch, (3, 7, 11)) == 3 * 2 * 5 * 7 * 11
    assert flops(gradients(multiply), batch, (3, 7, 11)) == 3 * 3 * 2 * 5 * 7 * 11


def test_convolutions_and_their_gradients_are_counted():
    import tensorflow as tf

    def full(x, y):
        return tf.nn.conv2d(x, y, strides=2, padding="SAME")

    def depthwise(x, y):
        return tf.nn.depthwise_conv2d(x, y, [1, 2, 2, 1], "SAME")

    # At stride 2, a side of 9 pixels becomes 5 pixels.
    assert flops(full, (2, 9, 9, 4), (3, 3, 4, 6)) == 2 * 2 * 25 * 6 * 9 * 4
    assert flops(gradients(full), (2, 9, 9, 4), (3, 3, 4, 6)) == 3 * 2 * 2 * 25 * 6 * 9 * 4
    assert flops(depthwise, (2, 9, 9, 4), (3, 3, 4, 1)) == 2 * 2 * 25 * 4 * 9
    assert flops(gradients(depthwise), (2, 9, 9, 4), (3, 3, 4, 1)) == 3 * 2 * 2 * 25 * 4 * 9


def test_einsums_and_called_functions_are_counted_but_unused_operations_are_not():
    import tensorflow as tf

    def einsum(x, y):
        return tf.einsum("abc,cde->abde", x, y)

    assert flops(einsum, (2, 3, 5), (5, 7, 11)) == 2 * 2 * 3 * 5 * 7 * 11
    called = tf.function(tf.matmul, autograph=False)
    assert flops(lambda x, y: called(x, y), (5, 7), (7, 11)) == 2 * 5 * 7 * 11

    def unused(x, y):
        tf.matmul(x, y)
        return x + 1.0

    assert flops(unused, (5, 7), (7, 11)) == 0


def test_a_dynamic_shape_is_refused():
    import tensorflow as tf

    with pytest.raises(ValueError, match="static shape"):
        flops(tf.matmul, (None, 7), (7, 11))


TIMINGS = {
    ("tf_mural", "graph"): [(2.0, 3.0), (4.0, 5.0), (3.0, 4.0)],
    ("pytorch", "eager"): [(6.0, 9.0), (6.0, 9.0), (1.0, 9.0)],
    ("pytorch", "channels_last"): [(5.0, 9.0), (4.0, 9.0), (9.0, 9.0)],
}
FACTS = {
    "tf_mural": {"parameters": 10, "forward_flops": 20, "flops": 60},
    "pytorch": {"parameters": 10, "forward_flops": 20},
}


def test_the_ratio_is_to_the_best_variant_of_the_peer():
    case = CASES["tiny"]
    result = train_step.summarize(case, TIMINGS, FACTS, {"tf_mural": 50.0, "pytorch": 40.0})
    assert result["best_peer"] == "pytorch channels_last"
    assert result["ratio"] == pytest.approx(5.0 / 3.0)
    assert result["ratio_fastest"] == pytest.approx(1.0 / 2.0)
    run = result["runs"]["tf_mural graph"]
    assert run["milliseconds"] == 3000 and run["spread_milliseconds"] == [2000, 4000]
    assert run["triples_per_second"] == pytest.approx(case.batch / 3)
    assert run["share_of_peak"] == pytest.approx(60 / 3 / 50)
    assert any("1.67 times" in line for line in train_step.table({"tiny": result}))


@pytest.mark.parametrize("key", ["parameters", "forward_flops"])
def test_two_different_models_are_not_compared(key):
    facts = {**FACTS, "pytorch": {**FACTS["pytorch"], key: 11}}
    with pytest.raises(RuntimeError, match=f"not the same: {key}"):
        train_step.summarize(CASES["tiny"], TIMINGS, facts, {"tf_mural": 50.0, "pytorch": 40.0})


def test_without_torch_the_message_contains_the_install_command(monkeypatch, capsys):
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        train_step.parse(["--model=tiny"])
    assert end.value.code == 2
    assert "pip install -r benchmarks/requirements.txt" in capsys.readouterr().err
    assert not train_step.parse(["--model=tiny", "--no-peer"]).peer


def test_the_failure_of_a_worker_process_is_raised():
    with pytest.raises(RuntimeError, match="NoSuchClass"):
        worker.Worker("benchmarks.cases", "NoSuchClass")


def test_synthetic_batches_have_the_sizes_of_the_case_and_no_padding():
    case = CASES["tiny"]
    batch = synthetic_batch(case)
    assert batch["image"].shape == (case.batch, case.image_size, case.image_size, 3)
    assert batch["image"].dtype == np.uint8 and batch["image"].max() > 200
    texts = np.stack([batch["text_a"], batch["text_b"]])
    assert texts.shape == (2, case.batch, case.tokens) and texts.dtype == np.int32
    assert texts.min() > 0 and texts.max() < case.vocabulary and (texts[0] != texts[1]).any()


# --- the peer -------------------------------------------------------------------------------------


@needs_torch
def test_the_peer_has_the_same_parameters_and_flops(tmp_path):
    _, results = run(tmp_path)
    result = results["cases"]["tiny"]
    assert set(result["runs"]) == {"tf_mural graph", "pytorch eager", "pytorch channels_last"}
    facts, peer_facts = result["facts"]["tf_mural"], result["facts"]["pytorch"]
    assert facts["parameters"] == peer_facts["parameters"]
    assert facts["forward_flops"] == peer_facts["forward_flops"]
    assert result["ratio"] > 0


@needs_torch
@pytest.mark.parametrize("name", ["b0", "b7"])
def test_every_parameter_of_the_peer_has_a_gradient(name):
    import torch

    from benchmarks import torch_step

    case = dataclasses.replace(CASES[name], batch=2, image_size=65, tokens=4, vocabulary=50)
    arrays = synthetic_batch(case)
    model = torch_step.dual_encoder(dataclasses.replace(case, text="nano")).train()
    pixels = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2)
    texts = [torch.from_numpy(arrays[field]).long() for field in ("text_a", "text_b")]
    torch_step.etcl(*model(pixels, *texts), model.temperature).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@needs_torch
def test_the_loss_of_the_peer_equals_ours():
    import torch

    from benchmarks import torch_step
    from tf_mural import losses

    x, y = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    expected = np.mean(losses.contrastive((x, y), (x, y), 0, 0.5, 0.3, 0.1))
    actual = torch_step.contrastive(torch.from_numpy(x), torch.from_numpy(y), 0.5)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)


@needs_torch
def test_the_optimizer_of_the_peer_equals_ours():
    import keras
    import torch

    from benchmarks import torch_lamb
    from tf_mural.optimizers import LAMB

    rng = np.random.default_rng(0)
    shapes = {"dense.weight": (4, 3), "dense.bias": (3,), "x_bn.weight": (3,)}
    initial = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    parameters = {n: torch.nn.Parameter(torch.from_numpy(v.copy())) for n, v in initial.items()}
    variables = [keras.Variable(v, name=n.replace(".", "_")) for n, v in initial.items()]
    exclude = dict(
        exclude_from_weight_decay=("bias", "_bn"), exclude_from_layer_adaptation=("_bn",)
    )
    optimizer = LAMB(1e-2, weight_decay=0.1, **exclude)
    peer = torch_lamb.LAMB(list(parameters.items()), learning_rate=1e-2, weight_decay=0.1)
    for _ in range(5):
        gradients = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradients[name])
        with torch.no_grad():
            peer.step()
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients.values()], variables)
    for variable, parameter in zip(variables, parameters.values(), strict=True):
        np.testing.assert_allclose(variable.numpy(), parameter.detach().numpy(), rtol=1e-5)
