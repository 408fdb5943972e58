//! Converts a validated program into executable steps: operators with placed tensors and everything that is known
//! before a frame.

use crate::engine::cpu::arena::TensorPlace;
use crate::engine::cpu::bands::Target;
use crate::engine::cpu::conv::{ConvStep, Signed};
use crate::engine::cpu::exec::{MaxPoolStep, Step, StepKind};
use crate::program::{Codes, Conv, Op, OpKind, Program, Section};

/// Stands in where a validated program always has codes.
const F32: Codes = Codes {
    scale: 1.0,
    zero: 0,
};

/// Prepares the operators of a validated program.
pub(super) fn steps(program: &Program, places: &[TensorPlace]) -> Vec<Step> {
    let mut written = vec![false; program.tensors.len()];
    let mut signed = vec![false; program.tensors.len()];
    signed[program.input] = true;
    let step = |op: &Op| {
        let output = places[op.output];
        let bytes = |section: &Section| section.range();
        let kind = match &op.kind {
            OpKind::Conv(conv) => {
                let residual = conv.residual.map(|tensor| places[tensor]);
                let input = places[conv.input];
                let around_0 = input.codes.is_none_or(|codes| codes.zero == 0);
                let signed = match program.root(conv.input).0 {
                    // ReLU leaves codes of the zero point and above, which may be negative.
                    _ if !around_0 => Signed::Yes,
                    root if root == program.input => Signed::AsInput,
                    root if signed[root] => Signed::Yes,
                    _ => Signed::No,
                };
                StepKind::Conv(ConvStep::new(conv, input, signed, residual, &output))
            }
            OpKind::Affine {
                input,
                scale,
                shift,
                relu,
            } => StepKind::Affine {
                input: places[*input],
                scale: bytes(scale),
                shift: bytes(shift),
                relu: *relu,
            },
            OpKind::Add { a, b, relu } => StepKind::Add {
                a: places[*a],
                b: places[*b],
                relu: *relu,
            },
            OpKind::Relu { input } => StepKind::Relu {
                input: places[*input],
            },
            OpKind::Sigmoid { input } => StepKind::Sigmoid {
                input: places[*input],
            },
            OpKind::DepthToSpace { input, block, mode } => StepKind::DepthToSpace {
                input: places[*input],
                block: *block,
                mode: *mode,
            },
            OpKind::Quantize { input } => StepKind::Quantize {
                input: places[*input],
                codes: program.tensors[op.output].codes().unwrap_or(F32),
            },
            OpKind::Dequantize { input } => StepKind::Dequantize {
                input: places[*input],
                codes: program.tensors[*input].codes().unwrap_or(F32),
            },
            OpKind::MaxPool {
                input,
                kernel,
                stride,
                pad,
            } => StepKind::MaxPool(MaxPoolStep {
                input: places[*input],
                kernel: *kernel,
                stride: *stride,
                pad: *pad,
            }),
        };
        let root = program.root(op.output).0;
        signed[root] |= may_be_negative(op, program, &signed);
        let clears_border = !std::mem::replace(&mut written[root], true);
        Step {
            kind,
            target: Target {
                output,
                clears_border,
            },
        }
    };
    program.ops.iter().map(step).collect()
}

/// Whether an operator's output can be negative. `signed` says which root tensors can be.
fn may_be_negative(op: &Op, program: &Program, signed: &[bool]) -> bool {
    match &op.kind {
        OpKind::Conv(Conv { relu, .. })
        | OpKind::Affine { relu, .. }
        | OpKind::Add { relu, .. } => !relu,
        OpKind::Relu { .. } | OpKind::Sigmoid { .. } => false,
        OpKind::DepthToSpace { input, .. }
        | OpKind::MaxPool { input, .. }
        | OpKind::Quantize { input }
        | OpKind::Dequantize { input } => signed[program.root(*input).0],
    }
}

/// For each operator, the tensors that it completes.
pub(super) fn completed(
    program: &Program,
    places: &[TensorPlace],
) -> Vec<Vec<(String, TensorPlace)>> {
    let mut last_write = vec![None; program.tensors.len()];
    for (index, op) in program.ops.iter().enumerate() {
        last_write[op.output] = Some(index);
        last_write[program.root(op.output).0] = Some(index);
    }
    let mut completed = vec![Vec::new(); program.ops.len()];
    let tensors = program.tensors.iter().zip(places).zip(last_write);
    for ((tensor, place), write) in tensors.filter(|((t, _), _)| !t.name.is_empty()) {
        if let Some(write) = write {
            completed[write].push((tensor.name.clone(), *place));
        }
    }
    completed
}
