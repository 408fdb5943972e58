"""Runs an ONNX network with another engine, controlled by a benchmark through standard input.

usage: run_engine.py onnxruntime|openvino FILE.onnx THREADS

First prints `ready MEGABYTES ABOUT` (memory of the interpreter and its libraries, description of the
engine) or `missing PACKAGE`. Then answers each line of standard input with one line:
    input FILE    loads the input, little-endian f32 in the network's layout: `done`
    run           runs once: `MILLISECONDS PROCESSOR_MILLISECONDS PEAK_MEGABYTES`
    outputs FILE  writes the concatenated outputs of the last run: `done`
The benchmark's side is benches/common/runner.rs. To install OpenVINO: `pip install openvino`.
"""

import collections
import sys
from time import perf_counter, process_time

import numpy as np


class OnnxRuntime:
    def __init__(self):
        import onnxruntime

        self.module = onnxruntime

    def load(self, path, threads):
        options = self.module.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self.session = self.module.InferenceSession(path, options, providers=providers)
        description = self.session.get_inputs()[0]
        self.name, self.shape = description.name, description.shape
        return f"onnxruntime {self.module.__version__}"

    def run(self, x):
        return self.session.run(None, {self.name: x})


class OpenVino:
    def __init__(self):
        import openvino

        self.module = openvino

    def load(self, path, threads):
        core = self.module.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Layers that are not quantised stay f32; the default is bf16 if the processor supports it.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = core.compile_model(path, "CPU", options)
        self.request, self.shape = model.create_infer_request(), list(model.input(0).shape)
        # The kernels actually used; their names contain the instruction set, such as AMX.
        convolutions = collections.Counter()
        for node in model.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if info["layerType"].astype(str) == "Convolution":
                convolutions[info["primitiveType"].astype(str)] += 1
        found = ", ".join(f"{count} {name}" for name, count in convolutions.most_common())
        capabilities = " ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        version = self.module.__version__.split("-")[0]
        return f"openvino {version}, capabilities {capabilities}; convolutions: {found}"

    def run(self, x):
        outputs = self.request.infer({0: x}, share_inputs=True, share_outputs=True)
        return list(outputs.values())


def peak_megabytes():
    """Peak memory. Not from getrusage, whose peak includes the parent process."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main(kind, path, threads):
    try:
        engine = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}[kind]()
    except ImportError as error:
        print("missing", error.name)
        return
    libraries = peak_megabytes()
    about = engine.load(path, int(threads))
    print("ready", libraries, about, flush=True)
    x = outputs = None
    for line in sys.stdin:
        word, _, argument = line.rstrip("\n").partition(" ")
        if word == "input":
            # The length of a dynamic axis (the pillars of a PFN) follows from the file.
            shape = [n if isinstance(n, int) else -1 for n in engine.shape]
            x = np.fromfile(argument, np.float32).reshape(shape)
        elif word == "run":
            begin, processor = perf_counter(), process_time()
            outputs = engine.run(x)
            wall, processor = perf_counter() - begin, process_time() - processor
            print(wall * 1e3, processor * 1e3, peak_megabytes(), flush=True)
            continue
        elif word == "outputs":
            with open(argument, "wb") as file:
                for output in outputs:
                    file.write(np.ascontiguousarray(output).tobytes())
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
