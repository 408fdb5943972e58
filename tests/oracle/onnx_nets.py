"""Creates and runs networks as ONNX files, with ONNX Runtime as the reference.

    onnx_nets.py pfe DIR          writes small pillar feature networks in the forms that exporters use
    onnx_nets.py rpn DIR          writes small networks of the CPU engine's operators
    onnx_nets.py run MODEL DIR    runs a file; dynamic axes have length 7
    onnx_nets.py check MODEL DIR IN  checks a file written by the crate and runs it on the values in IN
    onnx_nets.py halves MODEL I O  checks that no inner value is FLOAT, inputs have type I and outputs type O
    onnx_nets.py serve MODEL      reads inputs from standard input and writes outputs to standard output
    onnx_nets.py npz FILE DIR     writes x and y of an NPZ file as the input and output of a case
    onnx_nets.py same DIR         checks that fused.onnx of each case in DIR is valid and has the same results
    onnx_nets.py compare A B IN T checks that two files are valid and their results on IN differ by at most T

Each case is a folder in DIR: model.onnx, io.json (names and shapes), input.f32, and 0.f32, 1.f32, … for
the outputs. All numbers come from a fixed seed.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(20240607)


class Net:
    """Collects nodes and constants; each method returns the name of its result."""

    def __init__(self, opset=13):
        self.opset, self.nodes, self.constants = opset, [], []

    def const(self, array, name=None):
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def f32(self, *shape, low=-1.0, high=1.0, name=None):
        return self.const(rng.uniform(low, high, shape).astype(np.float32), name)

    def ints(self, *values):
        return self.const(np.array(values, np.int64))

    def op(self, kind, inputs, out=None, outputs=1, **attributes):
        names = [out or f"v{len(self.nodes)}"] + [f"v{len(self.nodes)}_{i}" for i in range(1, outputs)]
        node = helper.make_node(kind, inputs, names, name=f"/{kind}_{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        return names[0]

    def bn(self, x, channels, out=None, eps=1e-3):
        scale, bias, mean = (self.f32(channels) for _ in range(3))
        var = self.f32(channels, low=0.3, high=2.0)
        return self.op("BatchNormalization", [x, scale, bias, mean, var], out, epsilon=eps)

    def axes(self, kind, x, axes, out=None, since=13, **attributes):
        """An operator whose axes are an attribute before operator set `since`, and an input from then on."""
        if self.opset >= since:
            return self.op(kind, [x, self.ints(*axes)], out, **attributes)
        return self.op(kind, [x], out, axes=axes, **attributes)

    def save(self, folder, inputs, outputs, feed=None, checked=True, rank=4):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value(*i) for i in inputs],
            [value(o, [None] * rank) for o in outputs],
            self.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )
        if checked:
            onnx.checker.check_model(model, full_check=True)
        folder.mkdir(parents=True)
        onnx.save(model, folder / "model.onnx")
        if checked:
            run(folder / "model.onnx", folder, feed)


def plain_session(model, threads=1):
    """A session that runs the file node by node, without fusion."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


# Files contain floats, whatever the network's types.
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


def serve(path):
    """Runs one map after another, little-endian f32; writes the outputs in network order."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = plain_session(path, threads=2)
    (source,) = session.get_inputs()
    size = 4 * int(np.prod(source.shape))
    while len(data := sys.stdin.buffer.read(size)) == size:
        feed = np.frombuffer(data, "<f4").reshape(source.shape).astype(TYPES[source.type])
        for result in session.run(None, {source.name: feed}):
            sys.stdout.buffer.write(result.astype("<f4").tobytes())
        sys.stdout.buffer.flush()


def run(model, folder, feed=None):
    """Runs a file and writes its input and outputs."""
    session = plain_session(model)
    (source,) = session.get_inputs()
    shape = [n if isinstance(n, int) else 7 for n in source.shape]
    if feed is None:
        feed = rng.standard_normal(shape)
    elif feed.ndim == 1:
        feed = feed.reshape(shape)
    feed = feed.astype(TYPES[source.type])
    names = [o.name for o in session.get_outputs()]
    results = session.run(names, {source.name: feed})
    write(folder, source.name, feed, names, results)


def write(folder, name, feed, names, results):
    """Writes the input, the outputs and their description."""
    feed.astype("<f4").tofile(folder / "input.f32")
    for i, result in enumerate(results):
        result.astype("<f4").tofile(folder / f"{i}.f32")
    described = {
        "input": {"name": name, "shape": list(feed.shape)},
        "outputs": [{"name": n, "shape": list(r.shape)} for n, r in zip(names, results)],
    }
    (folder / "io.json").write_text(json.dumps(described))


def same(folder):
    """Checks the files written by the crate."""
    for case in sorted(path.parent for path in folder.glob("*/fused.onnx")):
        onnx.checker.check_model(onnx.load(case / "fused.onnx"), full_check=True)
        described = json.loads((case / "io.json").read_text())
        shape = described["input"]["shape"]
        feed = np.fromfile(case / "input.f32", "<f4").reshape(shape)
        session = ort.InferenceSession(str(case / "fused.onnx"), providers=["CPUExecutionProvider"])
        results = session.run(None, {described["input"]["name"]: feed})
        assert [o.name for o in session.get_outputs()] == [o["name"] for o in described["outputs"]]
        for i, result in enumerate(results):
            expected = np.fromfile(case / f"{i}.f32", "<f4").reshape(result.shape)
            scale = max(np.abs(expected).max(), 1e-3)
            difference = np.abs(result - expected).max() / scale
            assert difference <= 1e-5, f"{case.name}: {difference}"


def compare(first, second, source, tolerance):
    """Checks that two files are valid and have the same outputs, by name.

    The tolerance applies to the Euclidean norm of the difference relative to that of the output. A single
    cell may differ by twice as much, relative to the output's largest value: on the demo network, ONNX
    Runtime's own folding of the same norms differs by 1.3 times 1e-5 in one cell.
    """
    results = []
    for path in (first, second):
        onnx.checker.check_model(onnx.load(path), full_check=True)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        feed = np.fromfile(source, "<f4").reshape(given.shape)
        names = [o.name for o in session.get_outputs()]
        results.append(dict(zip(names, session.run(names, {given.name: feed}))))
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        difference = results[1][name] - expected
        whole = np.linalg.norm(difference) / np.linalg.norm(expected)
        cell = np.abs(difference).max() / np.abs(expected).max()
        print(f"{name}: {whole:.1e} as a whole, {cell:.1e} in the worst cell")
        assert whole <= tolerance and cell <= 2 * tolerance, f"{name}: {whole}, {cell}"


def halves(path, inputs, outputs):
    """Checks with ONNX's type inference that no inner value is FLOAT; checks the input and output types."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    made = {o for node in model.graph.node for o in node.output}
    assert made <= types.keys() | {o.name for o in model.graph.output}
    floats = [name for name, kind in types.items() if kind == TensorProto.FLOAT]
    assert not floats, floats
    for values, expected in [(model.graph.input, inputs), (model.graph.output, outputs)]:
        found = {TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in values}
        assert found == {expected}, (found, expected)
    codes = sum(kind == TensorProto.INT8 for kind in types.values())
    print(f"{len(types)} values, {codes} of them INT8, none FLOAT")


# Pillar feature networks ------------------------------------------------------------------------------


def repeat(net, maximum, rows, points, style):
    """The max of each pillar at every point, in the forms that old and new exporters write."""
    if style == "tile":
        return net.op("Tile", [maximum, net.ints(1, points, 1)])
    # torch.repeat with a dynamic number of pillars.
    shape = net.op("Shape", [rows])
    zero = net.op("Constant", [], value=numpy_helper.from_array(np.array(0, np.int64)))
    one = net.op("Constant", [], value=numpy_helper.from_array(np.array(1)))
    pillars = net.op("Gather", [shape, zero], axis=0)
    flat = [net.axes("Unsqueeze", v, [0]) for v in (one, pillars, one)]
    if style == "expand":
        to = net.op("Concat", [net.axes("Unsqueeze", pillars, [0]), net.ints(points), net.ints(-1)], axis=0)
        minus = net.op("Equal", [to, net.ints(-1)])
        ones = net.op("ConstantOfShape", [net.op("Shape", [to])], value=numpy_helper.from_array(np.array([1])))
        return net.op("Expand", [maximum, net.op("Where", [minus, ones, to])])
    all_ones = net.op("Concat", flat, axis=0)
    fill = net.op("ConstantOfShape", [net.op("Shape", [all_ones])], value=numpy_helper.from_array(np.array([1])))
    expanded = net.op("Expand", [maximum, fill])
    repeats = net.op("Concat", [flat[0], net.ints(points), flat[2]], axis=0)
    return net.op("Tile", [expanded, repeats])


def rows_pfn(folder, opset, columns, widths, points=5, pillars="P", linear="bn", style="repeat", end="squeeze"):
    """[P, M, C]: MatMul with BatchNormalization, with Add, or Gemm."""
    net = Net(opset)
    x, given = "input_features", columns
    for i, width in enumerate(widths):
        last = i == len(widths) - 1
        y = linear_rows(net, x, columns, width, points, linear)
        y = net.op("Relu", [y])
        out = "pillar_features" if last and end == "keep" else None
        if last and end == "drop":
            net.axes("ReduceMax", y, [1], "pillar_features", since=18, keepdims=0)
            break
        top = net.axes("ReduceMax", y, [1], out, since=18, keepdims=1)
        if last:
            if end == "squeeze":
                net.axes("Squeeze", top, [1], "pillar_features")
            break
        x = net.op("Concat", [y, repeat(net, top, y, points, style)], axis=2 if i % 2 else -1)
        columns = 2 * width
    count = pillars if isinstance(pillars, int) else 9
    feed = rng.standard_normal((count, points, given)).astype(np.float32)
    # Empty rows, as in the runtime.
    feed[1::2, points // 2 :] = 0
    inputs = [("input_features", [pillars, points, given])]
    net.save(folder, inputs, ["pillar_features"], feed, rank=3 if end == "keep" else 2)


def linear_rows(net, x, columns, width, points, kind):
    if kind == "add":
        return net.op("Add", [net.op("MatMul", [x, net.f32(columns, width)]), net.f32(width)])
    if kind == "add_bn":
        y = net.op("Add", [net.f32(width), net.op("MatMul", [x, net.f32(columns, width)])])
    elif kind == "gemm":
        flat = net.op("Reshape", [x, net.ints(-1, columns)])
        y = net.op("Gemm", [flat, net.f32(width, columns), net.f32(width)], transB=1, alpha=0.5, beta=2.0)
        y = net.bn(y, width)
        return net.op("Reshape", [y, net.ints(-1, points, width)])
    elif kind == "unfolded":
        # torch's export without constant folding.
        weight = net.op("Transpose", [net.f32(width, columns)], perm=[1, 0])
        y = net.op("MatMul", [x, weight])
    else:
        y = net.op("MatMul", [x, net.f32(columns, width)])
    y = net.op("Transpose", [y], perm=[0, 2, 1])
    y = net.bn(y, width)
    return net.op("Transpose", [y], perm=[0, 2, 1])


def conv_pfn(folder, opset, columns, widths, points=6, pillars=8):
    """[1, C, P, M]: Conv 1x1, BatchNormalization, Relu, MaxPool."""
    net = Net(opset)
    x, given = "input.1", columns
    for i, width in enumerate(widths):
        last = i == len(widths) - 1
        y = net.op("Conv", [x, net.f32(width, columns, 1, 1)], kernel_shape=[1, 1])
        y = net.op("Relu", [net.bn(y, width)])
        top = net.op("MaxPool", [y], "out" if last else None, kernel_shape=[1, points], strides=[1, 1])
        if not last:
            tiled = net.op("Tile", [top, net.ints(1, 1, 1, points)])
            x = net.op("Concat", [y, tiled], axis=1)
            columns = 2 * width
    feed = rng.standard_normal((1, given, pillars, points)).astype(np.float32)
    net.save(folder, [("input.1", list(feed.shape))], ["out"], feed)


def bad_pfn(folder, fault):
    """A PFN of two layers with one fault."""
    net = Net(13)
    y = net.op("MatMul", ["x", net.f32(4, 3)])
    y = net.op("LeakyRelu" if fault == "leaky" else "Relu", [y])
    axis = 0 if fault == "axis" else 1
    kind = "ReduceMean" if fault == "mean" else "ReduceMax"
    top = net.op(kind, [y], axes=[axis], keepdims=1)
    all_tops = net.op("Expand", [top, net.ints(6, 5, 3)])
    parts = [all_tops, y] if fault == "order" else [y, all_tops]
    z = net.op("Concat", parts, axis=2)
    if fault == "extra":
        z = net.op("Sigmoid", [z])
    weight = "x2" if fault == "weight" else net.f32(6, 3)
    if fault == "weight":
        net.op("ReduceMax", ["x"], "x2_all", axes=[1], keepdims=0)
        net.op("Tile", ["x2_all", net.ints(1, 1)], "x2_four")
        net.op("MatMul", ["x2_four", net.f32(4, 3)], "x2")
    w = net.op("MatMul", [z, weight])
    w = net.op("Relu", [w])
    net.op("ReduceMax", [w], "out", axes=[1], keepdims=0)
    net.save(folder, [("x", [6, 5, 4])], ["out"], checked=fault != "weight", rank=2)


def make_pfe(folder):
    rows_pfn(folder / "mmdet_11", 11, 10, [6, 7], pillars=12, style="repeat")
    rows_pfn(folder / "awml_17", 17, 11, [16, 32], style="repeat", end="keep", linear="unfolded")
    rows_pfn(folder / "expand_13", 13, 9, [4, 5, 6], style="expand", end="drop")
    rows_pfn(folder / "axes_18", 18, 9, [4, 5], style="tile", end="drop")
    rows_pfn(folder / "axes_20", 20, 5, [8], end="squeeze")
    rows_pfn(folder / "folded_14", 14, 9, [4, 5], linear="add", style="tile", end="keep")
    rows_pfn(folder / "biased_13", 13, 9, [4, 5], linear="add_bn", style="tile")
    rows_pfn(folder / "gemm_13", 13, 9, [4, 5], linear="gemm", style="tile")
    conv_pfn(folder / "conv_11", 11, 10, [6, 7])
    conv_pfn(folder / "conv_20", 20, 9, [4, 5, 6])
    for fault in ["leaky", "axis", "mean", "order", "extra", "weight"]:
        bad_pfn(folder / f"bad_{fault}", fault)


# Networks of maps ---------------------------------------------------------------------------------------


def one_op(folder, build, shape=(1, 6, 9, 11), opset=13):
    net = Net(opset)
    build(net)
    net.save(folder, [("x", list(shape))], ["out"])


def make_rpn(folder):
    conv = lambda o, i, k, **a: lambda n: n.op(
        "Conv", ["x", n.f32(o, i, *k), n.f32(o)], "out", **a
    )
    one_op(folder / "conv_3x3", conv(5, 6, (3, 3), pads=[1, 1, 1, 1]))
    one_op(folder / "conv_stride", conv(7, 6, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    one_op(folder / "conv_uneven", conv(4, 6, (2, 3), pads=[0, 2, 1, 1], strides=[1, 2]))
    one_op(folder / "conv_dilated", conv(4, 6, (3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]))
    one_op(folder / "conv_groups", conv(4, 3, (3, 3), group=2))
    one_op(folder / "conv_same_upper", conv(4, 6, (3, 3), auto_pad="SAME_UPPER", strides=[2, 2]))
    one_op(folder / "conv_same_lower", conv(4, 6, (2, 2), auto_pad="SAME_LOWER"))
    one_op(folder / "conv_valid", conv(4, 6, (3, 3), auto_pad="VALID"))
    one_op(
        folder / "conv_bn_mul_add",
        lambda n: n.op(
            "Add",
            [n.f32(1, 5, 1, 1), n.op("Mul", [n.bn(n.op("Conv", ["x", n.f32(5, 6, 3, 3)]), 5), n.f32(5, 1, 1)])],
            "out",
        ),
    )
    up = lambda o, groups, k, **a: lambda n: n.bn(
        n.op("ConvTranspose", ["x", n.f32(6, o // groups, *k), n.f32(o)], group=groups, **a), o, "out"
    )
    one_op(folder / "deconv_1", up(5, 1, (1, 1), strides=[1, 1]))
    one_op(folder / "deconv_2", up(5, 1, (2, 2), strides=[2, 2]))
    one_op(folder / "deconv_4", up(3, 1, (4, 4), strides=[4, 4]))
    one_op(folder / "deconv_3x3", up(4, 1, (3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]))
    one_op(folder / "deconv_groups", up(6, 3, (2, 2), strides=[2, 2]))
    one_op(folder / "deconv_valid", up(4, 1, (3, 3), strides=[2, 2], auto_pad="VALID"))
    one_op(folder / "bn_alone", lambda n: n.op("Relu", [n.bn("x", 6)], "out"))
    one_op(
        folder / "conv_used_twice",
        lambda n: (
            n.op("Conv", ["x", n.f32(6, 6, 3, 3)], "y", pads=[1, 1, 1, 1]),
            n.op("Add", [n.bn("y", 6), "y"], "out"),
        ),
    )
    one_op(
        folder / "shared_weight",
        lambda n: (
            n.f32(6, 6, 3, 3, name="w"),
            n.op("Add", [n.bn(n.op("Conv", ["x", "w"]), 6), n.bn(n.op("Conv", ["x", "w"]), 6)], "out"),
        ),
    )
    for mode in ["DCR", "CRD"]:
        one_op(
            folder / f"depth_to_space_{mode.lower()}",
            lambda n: n.op("DepthToSpace", ["x"], "out", blocksize=2, mode=mode),
            (1, 12, 5, 4),
        )
    one_op(folder / "sigmoid", lambda n: n.op("Sigmoid", ["x"], "out"))
    one_op(folder / "clip_11", lambda n: n.op("Clip", ["x", n.const(np.float32(0))], "out"), opset=11)
    one_op(folder / "clip_9", lambda n: n.op("Clip", ["x"], "out", min=0.0), opset=9)
    one_op(folder / "max_pool", lambda n: n.op("MaxPool", ["x"], "out", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]))
    one_op(
        folder / "around",
        # The operators that exporters insert around the computation.
        lambda n: (
            n.op("Constant", [], "zero", value_float=0.0),
            n.op("Pad", ["x", n.ints(0, 0, 1, 1, 0, 0, 1, 1), "zero"], "padded"),
            n.op("Conv", ["padded", n.f32(8, 6, 3, 3)], "y", strides=[2, 2]),
            n.op("Dropout", ["y"], "y1"),
            n.op("Cast", ["y1"], "y2", to=TensorProto.FLOAT),
            n.op("Relu", [n.bn("y2", 8)], "y3"),
            n.op("Unsqueeze", ["y3", n.ints(0)], "y4"),
            n.op("Squeeze", ["y4", n.ints(0)], "y5"),
            n.op("Reshape", ["y5", n.op("Shape", ["y3"])], "y6"),
            n.op("Concat", ["y6", "y3"], "y7", axis=-3),
            n.op("Identity", ["y7"], "out"),
        ),
    )
    backbone(folder / "centerpoint")
    backbone(folder / "centerpoint_open", batch="N", tasks=2)


def backbone(folder, batch=1, tasks=1):
    """A small SECOND + SECONDFPN + CenterHead."""
    net = Net(17)

    def block(x, channels, out, stride=1, kernel=3):
        w = net.f32(out, channels, kernel, kernel, low=-0.2, high=0.2)
        y = net.op("Conv", [x, w], strides=[stride] * 2, pads=[kernel // 2] * 4)
        return net.op("Relu", [net.bn(y, out)])

    x, channels, levels = "spatial_features", 8, []
    for out, stride in [(8, 1), (12, 2), (16, 2)]:
        x = block(x, channels, out, stride)
        x = block(x, out, out)
        channels = out
        levels.append((x, out))
    ups = []
    for (y, c), scale in zip(levels, [1, 2, 4]):
        w = net.f32(c, 10, scale, scale)
        up = net.op("ConvTranspose", [y, w], kernel_shape=[scale] * 2, strides=[scale] * 2)
        ups.append(net.op("Relu", [net.bn(up, 10)]))
    x = block(net.op("Concat", ups, axis=1), 30, 12)
    outputs = []
    for task in range(tasks):
        suffix = f"_{task}" if tasks > 1 else ""
        for name, c in [("reg", 2), ("height", 1), ("dim", 3), ("rot", 2), ("vel", 2), ("heatmap", 3)]:
            y = block(x, 12, 8)
            outputs.append(name + suffix)
            net.op("Conv", [y, net.f32(c, 8, 3, 3), net.f32(c)], name + suffix, pads=[1] * 4)
    feed = rng.standard_normal((1, 8, 16, 24)).astype(np.float32)
    net.save(folder, [("spatial_features", [batch, 8, 16, 24])], outputs, feed)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pfe", folder]:
            make_pfe(Path(folder))
        case ["rpn", folder]:
            make_rpn(Path(folder))
        case ["run", model, folder]:
            run(Path(model), Path(folder))
        case ["check", model, folder, source]:
            onnx.checker.check_model(onnx.load(model), full_check=True)
            run(Path(model), Path(folder), np.fromfile(source, "<f4"))
        case ["halves", model, inputs, outputs]:
            halves(model, inputs, outputs)
        case ["serve", model]:
            serve(model)
        case ["npz", path, folder]:
            arrays = np.load(path)
            write(Path(folder), "x", arrays["x"], ["y"], [arrays["y"]])
        case ["same", folder]:
            same(Path(folder))
        case ["compare", first, second, source, tolerance]:
            compare(first, second, source, float(tolerance))
        case _:
            sys.exit(__doc__)
