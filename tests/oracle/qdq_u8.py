"""Rewrites a Q/DQ network from signed to unsigned activations, the fastest form for ONNX Runtime.

usage: qdq_u8.py IN.onnx OUT.onnx [--signed-input]

TensorRT requires signed codes with zero point 0 everywhere. ONNX Runtime has fast x86 kernels only for
u8 activations times s8 weights. The codes become u8 without any other change:
- If the quantised value cannot be negative (after a Relu; also the input, a BEV map, unless
  --signed-input): zero point 0 and a Clip to 0..127, the end of the signed range.
- Otherwise: zero point 128, so 0..255 represent the signed codes -128..127.
"""

import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Operators that only copy values of their inputs.
MOVES = {"Concat", "DepthToSpace", "MaxPool", "Reshape", "Identity", "DequantizeLinear", "Clip"}
POSITIVE = {"Relu", "Sigmoid"}


class Rewriter:
    def __init__(self, graph, signed_input):
        self.graph = graph
        self.producers = {name: node for node in graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = node.attribute[0].t
        inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.not_negative = dict.fromkeys(inputs, not signed_input)

    def is_not_negative(self, name):
        if name not in self.not_negative:
            node = self.producers.get(name)
            if node is None or node.op_type not in POSITIVE | MOVES | {"QuantizeLinear"}:
                known = False
            elif node.op_type in POSITIVE:
                known = True
            else:
                data = node.input if node.op_type == "Concat" else node.input[:1]
                known = all(self.is_not_negative(x) for x in data)
            self.not_negative[name] = known
        return self.not_negative[name]

    def constant(self, name, value):
        if name not in self.constants:
            tensor = numpy_helper.from_array(np.array(value, np.uint8), name)
            self.graph.initializer.append(tensor)
            self.constants[name] = tensor
        return name

    def activation(self, node):
        """Whether this node is a signed QuantizeLinear of an activation."""
        if node.op_type != "QuantizeLinear" or node.input[0] in self.constants:
            return False
        zero = numpy_helper.to_array(self.constants[node.input[2]])
        return zero.dtype == np.int8 and not zero.any()

    def rewrite(self):
        """Rewrites all; returns the numbers of clipped and of shifted (zero point 128) activations."""
        nodes, codes, counts = [], {}, [0, 0]
        for node in self.graph.node:
            nodes.append(node)
            if self.activation(node):
                shifted = not self.is_not_negative(node.input[0])
                zero = self.constant(f"u8_{128 * shifted}", 128 * shifted)
                counts[shifted] += 1
                node.input[2] = zero
                name = node.output[0]
                if not shifted:
                    clipped = [name + "_full", self.constant("u8_0", 0), self.constant("u8_127", 127)]
                    node.output[0] = clipped[0]
                    nodes.append(helper.make_node("Clip", clipped, [name], name=name + "_clip"))
                codes[name] = zero
            elif node.op_type == "DequantizeLinear" and node.input[0] in codes:
                node.input[2] = codes[node.input[0]]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        # Their declared types are no longer valid.
        kept = [value for value in self.graph.value_info if value.name not in codes]
        del self.graph.value_info[:]
        self.graph.value_info.extend(kept)
        return counts


def main(source, target, *flags):
    model = onnx.load(source)
    clipped, shifted = Rewriter(model.graph, "--signed-input" in flags).rewrite()
    if clipped + shifted == 0:
        sys.exit(f"{source}: no QuantizeLinear with signed codes and zero point 0")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
