//! INT8: random networks with Q/DQ nodes match the naive reference byte for byte, on every instruction set and
//! number of threads.

use std::collections::HashMap;

use super::naive_int8::{self, Map};
use super::{engine, run};
use crate::engine_net::{Conv, Net, Op, Random};
use centerpoint::internals::engine::cpu::Isa;
use centerpoint::internals::program::{Payload, Program};

/// A network under construction with all its values, which determine the ranges.
pub(crate) struct Draft {
    pub(crate) net: Net,
    pub(crate) input: Vec<f32>,
    maps: HashMap<String, Map>,
    random: Random,
    /// Whether codes have zero points.
    shifted: bool,
    /// The greatest code of a weight.
    most: usize,
}

impl Draft {
    pub(crate) fn new(shape: [usize; 3], seed: u64, shifted: bool, most: usize) -> Self {
        let mut random = Random(seed);
        random.next();
        let input = random.values(shape.iter().product());
        Self {
            net: Net::new(shape),
            maps: HashMap::from([("input".to_owned(), Map::new(shape, input.clone()))]),
            input,
            random,
            shifted,
            most,
        }
    }

    pub(crate) fn shape(&self, x: &str) -> [usize; 3] {
        self.maps[x].shape
    }

    pub(crate) fn node(&mut self, inputs: &[&str], op: Op) -> String {
        let maps: Vec<&Map> = inputs.iter().map(|x| &self.maps[*x]).collect();
        let y = naive_int8::compute(&self.net, &op, &maps);
        let name = format!("n{}", self.net.nodes.len());
        self.maps.insert(name.clone(), y);
        self.net.node(&name, inputs, op)
    }

    fn pick(&mut self, of: &[usize]) -> usize {
        of[self.random.below(of.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    /// `x` quantised and dequantised, usually with a scale that clips slightly.
    pub(crate) fn codes(&mut self, x: &str) -> String {
        let amax = self.maps[x]
            .values
            .iter()
            .fold(0.0f32, |a, v| a.max(v.abs()));
        let scale = amax.max(1e-3) * 0.8 / 127.0;
        self.codes_with(x, scale)
    }

    fn codes_with(&mut self, x: &str, scale: f32) -> String {
        let zero_point = if self.shifted {
            [-128, -128, 127, 0, -1, 57][self.random.below(6)]
        } else {
            0
        };
        let q = self.node(&[x], Op::Quantize { scale, zero_point });
        self.node(&[&q], Op::Dequantize)
    }

    /// A random convolution with quantised weights.
    fn conv(&mut self, x: &str) -> String {
        let [channels, h, w] = self.shape(x);
        let groups = match self.pick(&[1, 1, 1, 2, 3]) {
            g if channels.is_multiple_of(g) => g,
            _ => 1,
        };
        let per_out = self.pick(&[3, 12, 16, 17, 24, 32, 48, 64, 80]);
        let out = groups * per_out;
        let per_in = channels / groups;
        let bias = self.net.constant(&mut self.random, out, 0.3);
        let op = if self.chance(25) {
            let kernel = [self.pick(&[1, 2, 3]), self.pick(&[1, 2, 4])];
            let stride = if self.chance(60) {
                kernel
            } else {
                [self.pick(&[1, 2]), self.pick(&[1, 2, 3])]
            };
            Op::ConvTranspose(Conv {
                out,
                kernel,
                stride,
                pad: [0, kernel[1] / 3, kernel[0] / 3, 0],
                output_padding: [0; 2],
                dilation: [1; 2],
                groups,
                weight: self.weight(channels * per_out * kernel[0] * kernel[1]),
                scales: Some(self.scales(out)),
                bias: Some(bias),
            })
        } else {
            let kernel = [self.pick(&[1, 3, 3, 2]), self.pick(&[1, 3, 3, 5])];
            let dilation = [self.pick(&[1, 1, 2]), 1];
            let reach = |axis: usize| (kernel[axis] - 1) * dilation[axis];
            Op::Conv(Conv {
                out,
                kernel,
                stride: [self.pick(&[1, 1, 2]), self.pick(&[1, 1, 2, 3])],
                pad: [
                    reach(0) / 2,
                    reach(1) / 2,
                    reach(0).saturating_sub(h - 1),
                    { reach(1).saturating_sub(w - 1).max(reach(1) / 2) },
                ],
                output_padding: [0; 2],
                dilation,
                groups,
                weight: self.weight(out * per_in * kernel[0] * kernel[1]),
                scales: Some(self.scales(out)),
                bias: self.chance(80).then_some(bias),
            })
        };
        self.node(&[x], op)
    }

    pub(super) fn weight(&mut self, n: usize) -> (usize, usize) {
        let first = self.net.constants.len();
        for _ in 0..n {
            let code = self.random.below(2 * self.most + 1) as f32 - self.most as f32;
            self.net.constants.push(code);
        }
        (first, n)
    }

    pub(super) fn scales(&mut self, n: usize) -> (usize, usize) {
        let first = self.net.constants.len();
        for _ in 0..n {
            let scale = 1e-4 + self.random.below(1000) as f32 * 1e-6;
            self.net.constants.push(scale);
        }
        (first, n)
    }

    /// A convolution and the nodes around it. Its input is quantised, except for skipped layers.
    fn layer(&mut self, x: &str) -> String {
        // In f32 the reference only holds if the engine's lanes are output channels.
        let skipped = self.chance(15);
        let input = if skipped { x.to_owned() } else { self.codes(x) };
        let mut y = self.conv(&input);
        if skipped && self.shape(&y)[0] <= 8 {
            self.drop_last();
            let input = self.codes(x);
            y = self.conv(&input);
        }
        if !skipped && self.chance(20) {
            let block = if self.shape(&y)[0].is_multiple_of(4) {
                2
            } else {
                1
            };
            let crd = self.chance(50);
            y = self.node(&[&y], Op::DepthToSpace { block, crd });
        }
        if self.chance(35) && self.shape(&y).iter().product::<usize>() < 10_000 {
            y = self.residual(&y);
        }
        if self.chance(75) {
            y = self.node(&[&y], Op::Relu);
        }
        if self.chance(15) {
            let op = Op::MaxPool {
                kernel: [2, 1],
                stride: [1, 2],
                pad: [1, 0, 0, 0],
            };
            y = self.node(&[&y], op);
        }
        y
    }

    /// A convolution of `x` with `x` added, in one of the exporters' forms.
    fn residual(&mut self, x: &str) -> String {
        let codes = self.codes(x);
        let out = self.shape(x)[0];
        let y = self.conv_to(&codes, out, 3);
        let other = match self.random.below(4) {
            0 => x.to_owned(),
            1 => self.codes(x),
            2 => codes,
            // The other operand is quantised, too, with the same scale.
            _ => {
                let scale = 0.02;
                let (y, other) = (self.codes_with(&y, scale), self.codes_with(x, scale));
                return self.node(&[&y, &other], Op::Add);
            }
        };
        if self.chance(50) {
            self.node(&[&y, &other], Op::Add)
        } else {
            self.node(&[&other, &y], Op::Add)
        }
    }

    fn drop_last(&mut self) {
        let node = self.net.nodes.pop().unwrap();
        self.maps.remove(&node.name);
    }
}

/// A chain of layers with joined branches, whose codes have zero points if `shifted`.
pub(crate) fn random_net(seed: u64, shifted: bool) -> Draft {
    random_net_of(seed, shifted, 127)
}

/// As [`random_net`], with weights up to the code `most`.
pub(crate) fn random_net_of(seed: u64, shifted: bool, most: usize) -> Draft {
    let mut random = Random(seed);
    random.next();
    let channels = [1, 3, 6, 16, 32, 36][random.below(6)];
    let shape = [channels, random.range(3, 14), random.range(3, 26)];
    let mut draft = Draft::new(shape, seed, shifted, most);
    let mut x = "input".to_owned();
    for _ in 0..random.range(1, 4) {
        x = draft.layer(&x);
        if draft.chance(30) {
            // Two branches with equal rows and columns, joined with one scale.
            let y = draft.codes(&x);
            let (a, b) = (draft.pointwise(&y), draft.pointwise(&y));
            let b = if draft.chance(50) {
                draft.node(&[&b], Op::Relu)
            } else {
                b
            };
            let mut parts = vec![a, b];
            if draft.chance(40) {
                parts.push(x.clone());
            }
            if draft.chance(20) {
                parts.push(y);
            }
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            x = draft.node(&parts, Op::Concat);
            if draft.chance(30) {
                // Another node also reads its values.
                draft.net.outputs.push(x.clone());
            }
        }
        if draft.shape(&x).iter().product::<usize>() > 40_000 {
            break;
        }
    }
    let head = draft.codes(&x);
    for out in [1, 2, 5, 20] {
        if out == 1 || draft.chance(50) {
            let y = draft.conv_to(&head, out, 3);
            draft.net.outputs.push(y);
        }
    }
    if draft.chance(30) {
        draft.net.outputs.push(head);
    }
    draft
}

impl Draft {
    /// A k × k convolution with ReLU, quantised.
    pub(crate) fn block(&mut self, x: &str, out: usize, k: usize, stride: usize) -> String {
        let mut conv = self.square(x, out, k);
        conv.stride = [stride; 2];
        conv.bias = Some(self.net.constant(&mut self.random, out, 0.3));
        let y = self.node(&[x], Op::Conv(conv));
        let y = self.node(&[&y], Op::Relu);
        self.codes(&y)
    }

    /// A 3 × 3 convolution of values.
    pub(crate) fn conv_to_f32(&mut self, x: &str, out: usize) -> String {
        let mut conv = self.square(x, out, 3);
        conv.weight = self.net.constant(&mut self.random, conv.weight.1, 0.1);
        conv.scales = None;
        self.node(&[x], Op::Conv(conv))
    }

    /// A deconvolution with ReLU that enlarges each pixel to `up` × `up`, quantised.
    pub(crate) fn up(&mut self, x: &str, out: usize, up: usize) -> String {
        let mut conv = self.square(x, out, up);
        (conv.stride, conv.pad) = ([up; 2], [0; 4]);
        let y = self.node(&[x], Op::ConvTranspose(conv));
        self.node(&[&y], Op::Relu)
    }

    fn pointwise(&mut self, x: &str) -> String {
        let out = self.pick(&[4, 16, 20, 32]);
        self.conv_to(x, out, 1)
    }

    pub(crate) fn conv_to(&mut self, x: &str, out: usize, k: usize) -> String {
        let conv = self.square(x, out, k);
        self.node(&[x], Op::Conv(conv))
    }

    /// A k × k convolution that keeps the size, with quantised weights, for [`Draft::node`].
    fn square(&mut self, x: &str, out: usize, k: usize) -> Conv {
        let channels = self.shape(x)[0];
        Conv {
            out,
            kernel: [k; 2],
            stride: [1; 2],
            pad: [k / 2; 4],
            output_padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            weight: self.weight(out * channels * k * k),
            scales: Some(self.scales(out)),
            bias: None,
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn equals_the_naive_reference_byte_for_byte() {
    equals_the_reference(
        false,
        127,
        &[
            "Quantize [\"f32\"] -> i8",
            "Dequantize [\"i8\"] -> f32",
            "Conv [\"f32\"] -> f32",
            "INT8 Conv + ReLU [\"i8\"] -> i8",
            "INT8 Conv [\"i8\"] -> f32",
            "INT8 Conv + Add [\"i8\", \"f32\"] -> i8",
            "INT8 Conv + Add + ReLU [\"i8\", \"i8\"] -> i8",
            "INT8 Conv + Add + ReLU [\"i8\", \"i8\"] -> f32",
            "Add [\"f32\", \"f32\"] -> f32",
            "DepthToSpace [\"i8\"] -> i8",
            "MaxPool [\"i8\"] -> i8",
            "Copy [\"i8\"] -> i8",
        ],
    );
}

/// The same networks with zero points, as other tools make them.
#[test]
fn zero_points_equal_the_naive_reference_byte_for_byte() {
    equals_the_reference(
        true,
        127,
        &[
            "Quantize [\"f32\"] -> shifted",
            "Dequantize [\"shifted\"] -> f32",
            "INT8 Conv [\"shifted\"] -> f32",
            "INT8 Conv [\"shifted\"] -> shifted",
            "INT8 Conv [\"i8\"] -> shifted",
            "INT8 Conv + ReLU [\"shifted\"] -> shifted",
            "INT8 Conv + Add [\"shifted\", \"f32\"] -> shifted",
            "INT8 Conv + Add + ReLU [\"shifted\", \"i8\"] -> shifted",
            "DepthToSpace [\"shifted\"] -> shifted",
            "MaxPool [\"shifted\"] -> shifted",
            "Copy [\"shifted\"] -> shifted",
        ],
    );
}

/// Weights of 4 bits are stored in half of the bytes, and compute as those of 8.
#[test]
fn weights_of_4_bits_equal_the_naive_reference_byte_for_byte() {
    for shifted in [false, true] {
        equals_the_reference(shifted, 7, &["Dequantize"]);
    }
}

/// Only weights of 4 bits are packed, and only their right length is accepted.
#[test]
fn packed_weights_have_half_the_bytes_and_no_other_length() {
    for (most, bits) in [(127, 8), (7, 4)] {
        let payload = random_net_of(3, false, most).net.payload().unwrap();
        let found: Vec<u8> = (payload.program.layers().iter())
            .filter_map(|layer| layer.weight_bits)
            .collect();
        assert!(
            !found.is_empty() && found.iter().all(|b| *b == bits),
            "{found:?}"
        );
        let json = serde_json::to_value(&payload.program).unwrap();
        assert_eq!(json.to_string().contains("weight_bits"), bits == 4);
    }
    let [long, short] = [127, 7].map(|most| random_net_of(3, false, most).net.payload().unwrap());
    assert!(short.weights.len() < long.weights.len());
    let json = serde_json::to_value(&short.program).unwrap();
    let ops = json["ops"].as_array().unwrap();
    let at = ops
        .iter()
        .position(|op| op["kind"]["conv"]["weight_bits"] == 4);
    let at = at.unwrap();
    let load = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        change(&mut json["ops"][at]["kind"]["conv"]);
        let program = serde_json::from_value(json).unwrap();
        super::load(program, short.weights.clone()).map(|_| ())
    };
    load(&|_| {}).unwrap();
    let len = json["ops"][at]["kind"]["conv"]["phases"][0]["weights"]["len"]
        .as_u64()
        .unwrap();
    for wrong in [0, len / 2, len - 1, len + 1, 2 * len] {
        let error = load(&|conv| conv["phases"][0]["weights"]["len"] = wrong.into()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(&format!("weights has {wrong} bytes")),
            "{error}"
        );
    }
    for (bits, expected) in [
        (8, "weights has"),
        (0, "weights have 0 bits"),
        (3, "have 3 bits"),
    ] {
        let error = load(&|conv| conv["weight_bits"] = bits.into()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// A small file cannot ask for much memory by naming the same bytes again and again.
#[test]
fn packed_weights_that_overlap_are_refused() {
    let payloads = (0..).map(|seed| random_net_of(seed, false, 7).net.payload().unwrap());
    let large = |payload: Payload| {
        let json = serde_json::to_value(&payload.program).unwrap();
        let ops = json["ops"].as_array().unwrap().clone();
        let large = |op: &serde_json::Value| {
            let conv = &op["kind"]["conv"];
            let len = conv["phases"][0]["weights"]["len"].as_u64();
            conv["weight_bits"] == 4 && len >= Some(1024)
        };
        let conv = ops.into_iter().find(large)?;
        Some((payload, json, conv))
    };
    let (payload, mut json, conv) = payloads.filter_map(large).next().unwrap();
    let output = conv["output"].as_u64().unwrap() as usize;
    // Each copy writes a tensor of its own and reads its weights 64 bytes later.
    let tensor = json["tensors"][output].clone();
    let mut weights = payload.weights;
    let first = weights.len().next_multiple_of(64);
    weights.resize(first + (1 << 17), 0);
    for copy in 0..900 {
        let mut conv = conv.clone();
        let tensors = json["tensors"].as_array_mut().unwrap();
        tensors.push(tensor.clone());
        conv["output"] = (tensors.len() - 1).into();
        let offset = first + 64 * copy;
        conv["kind"]["conv"]["phases"][0]["weights"]["offset"] = offset.into();
        json["ops"].as_array_mut().unwrap().push(conv);
    }
    let program = serde_json::from_value(json).unwrap();
    let error = super::load(program, weights).err().unwrap().to_string();
    assert!(error.contains("overlap"), "{error}");
}

/// Compares 100 networks with weights up to the code `most`, in which all of `expected` must occur: the beginnings of
/// kinds.
fn equals_the_reference(shifted: bool, most: usize, expected: &[&str]) {
    let mut kinds: HashMap<String, usize> = HashMap::new();
    for seed in 0..100 {
        let draft = random_net_of(seed, shifted, most);
        let payload = draft
            .net
            .payload()
            .unwrap_or_else(|error| panic!("{seed}: {error}"));
        for layer in payload.program.layers() {
            let codes = |scale: Option<f32>, zero_point: i8| match (scale, zero_point) {
                (None, _) => "f32",
                (_, 0) => "i8",
                _ => "shifted",
            };
            let inputs = layer.inputs.iter();
            let inputs: Vec<_> = inputs.map(|t| codes(t.scale, t.zero_point)).collect();
            let kind: Vec<&str> = layer
                .kind
                .split([' ', ','])
                .filter(|word| !word.chars().any(|c| c.is_ascii_digit()) || *word == "INT8")
                .collect();
            let key = format!(
                "{} {inputs:?} -> {}",
                kind.join(" "),
                codes(layer.output.scale, layer.output.zero_point)
            );
            *kinds.entry(key).or_default() += 1;
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 2, 3] {
                let found = run(&mut engine(&payload, Some(isa), threads), &draft.input);
                for (name, found) in draft.net.outputs.iter().zip(&found) {
                    let expected = &draft.maps[name].values;
                    let same = bits(found) == bits(expected);
                    let differing = found.iter().zip(expected).filter(|(a, b)| a != b);
                    assert!(
                        same,
                        "network {seed}, {} with {threads} threads, output {name}: {:?} of {}\n{:#?}",
                        isa.name(),
                        differing.take(4).collect::<Vec<_>>(),
                        found.len(),
                        payload.program.layers(),
                    );
                }
            }
        }
    }
    // The networks cover what they should.
    for kind in expected {
        let found = kinds.keys().any(|known| known.starts_with(kind));
        assert!(found, "no {kind} in {kinds:#?}");
    }
}

/// A plan of a network without zero points has the bytes that it always had.
#[test]
fn zero_points_are_written_only_where_there_are_some() {
    for (shifted, written) in [(false, false), (true, true)] {
        let payload = random_net(3, shifted).net.payload().unwrap();
        let json = serde_json::to_string(&payload.program).unwrap();
        assert_eq!(json.contains("zero_point"), written, "{json}");
        assert_eq!(
            Program::from_json(json.as_bytes()).unwrap(),
            payload.program
        );
    }
}

/// Whoever writes the input knows no zero points, f32 has none, residuals are read around 0, and a part of a map has that of
/// the map.
#[test]
fn zero_points_where_there_are_none_are_refused() {
    let mut refused = HashMap::new();
    for seed in 0..20 {
        let payload = random_net(seed, false).net.payload().unwrap();
        for at in 0..payload.program.tensors.len() {
            let mut program = payload.program.clone();
            program.tensors[at].zero_point = 3;
            if let Err(error) = super::load(program, payload.weights.clone()) {
                let text = error.to_string();
                let holds_codes = payload.program.tensors[at].scale.is_some();
                assert!(text.contains("zero point"), "{text}");
                *refused.entry(holds_codes).or_insert(0) += 1;
            } else {
                let tensor = &payload.program.tensors[at];
                let residual = payload.program.ops.iter().any(|op| {
                    let kind = serde_json::to_value(&op.kind).unwrap();
                    kind["conv"]["residual"] == at
                });
                let tensors = &payload.program.tensors;
                let mut slices = tensors.iter().filter_map(|t| t.slice_of);
                let shared = tensor.slice_of.is_some() || slices.any(|slice| slice.tensor == at);
                let input = at == payload.program.input;
                assert!(tensor.scale.is_some() && !residual && !shared && !input);
            }
        }
    }
    assert!(refused[&false] > 20 && refused[&true] > 20, "{refused:?}");
}
