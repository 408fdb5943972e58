//! Skips empty pixels. This is exact: a pixel that sees only empty input has the value that it has for an input of
//! zeros.
//!
//! A new engine runs once on an input of zeros and records every operator's output, the operator's [`Reference`]. In
//! each frame the non-zero pixels of the input are marked. Then, before anything is computed, the marks spread from
//! tensor to tensor: every pixel that reads a marked one ([`Reach`]) is marked too, with a byte per pixel. An operator
//! computes the groups of [`GROUP`] pixels that contain a mark, and copies the others from its reference. Padding at
//! the map's edges is the same in both runs, so it needs no special case.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::pool::Pool;
use crate::engine::cpu::active::{Active, Others};
use crate::engine::cpu::arena::TensorPlace;
use crate::engine::cpu::marks::{GROUP, Marks, or};
use crate::engine::cpu::reference::Reference;
use crate::engine::cpu::slices::Slices;
use crate::engine::reach::{Reach, reaches};
use crate::program::{Op, OpKind, Program};

/// A convolution that would compute more than this fraction of its groups computes all of them, because the kernels
/// are fastest on whole rows.
const DENSE: f32 = 0.95;
/// The same limit for operators with little arithmetic, where a run of pixels costs about as much as it saves.
const DENSE_LIGHT: f32 = 0.5;
/// Fewest multiply-adds per output pixel for which [`DENSE`] applies.
const HEAVY: usize = 8192;

/// Marks of the current frame, and the references.
#[derive(Debug)]
pub(super) struct Skip {
    input: usize,
    /// Bytes left for references.
    left: usize,
    /// By tensor.
    maps: Vec<Marks>,
    /// By operator.
    steps: Vec<StepMarks>,
    /// Work rows: a row of an input and a row of steps.
    rows: [Vec<u8>; 2],
    /// Whether the frame's input contains negative codes.
    negative: AtomicBool,
}

/// An operator's tensors, reference and marking result.
#[derive(Debug)]
struct StepMarks {
    output: usize,
    /// The tensor that the output is a slice of, which receives its marks too.
    whole: Option<usize>,
    inputs: Vec<(usize, Reach)>,
    reference: Option<Reference>,
    /// The sources of the first input, if they can be taken one by one.
    slices: Option<Slices>,
    /// Fraction of the groups above which all are computed.
    dense: f32,
    /// Fraction of the groups that the current frame computes.
    computed: f32,
}

/// Fraction of the groups of an operator's output above which all are computed.
pub(super) fn dense(program: &Program, op: &Op) -> f32 {
    if is_heavy(program, op) {
        DENSE
    } else {
        DENSE_LIGHT
    }
}

/// Whether an operator computes so much for a pixel that whole tiles matter.
pub(super) fn is_heavy(program: &Program, op: &Op) -> bool {
    products(program, op) >= HEAVY
}

/// Multiply-adds per output pixel.
fn products(program: &Program, op: &Op) -> usize {
    match &op.kind {
        OpKind::Conv(conv) => {
            let channels = program.tensors[conv.input].channels / conv.groups;
            let taps = conv.phases.iter().map(|phase| phase.taps.len()).max();
            channels * taps.unwrap_or(0) * program.tensors[op.output].channels
        }
        _ => 0,
    }
}

impl Skip {
    /// Prepares the marks of a validated program. Returns `None` if they would take more than `most` bytes. References
    /// may take another `most` bytes. `slices`: whether convolutions may take their input's sources one by one.
    pub(super) fn new(program: &Program, most: usize, slices: bool) -> Option<Self> {
        if program.tensors.iter().map(Marks::bytes).sum::<u64>() > most as u64 {
            return None;
        }
        let maps: Vec<Marks> = program.tensors.iter().map(Marks::new).collect();
        let widest = maps.iter().map(|map| map.row).max().unwrap_or(0);
        let written: HashSet<usize> = program.ops.iter().map(|op| op.output).collect();
        let step = |(index, op): (usize, &Op)| {
            let root = program.root(op.output).0;
            // A slice that no operator writes by itself has the marks of the whole tensor.
            let marked = |(input, reach)| {
                let written = written.contains(&input);
                (
                    if written {
                        input
                    } else {
                        program.root(input).0
                    },
                    reach,
                )
            };
            StepMarks {
                output: op.output,
                whole: (root != op.output).then_some(root),
                inputs: reaches(op).into_iter().map(marked).collect(),
                reference: None,
                slices: (slices && is_heavy(program, op))
                    .then(|| Slices::find(program, index))
                    .flatten(),
                dense: dense(program, op),
                computed: 1.0,
            }
        };
        let mut skip = Self {
            input: program.input,
            left: most,
            steps: program.ops.iter().enumerate().map(step).collect(),
            maps,
            rows: [vec![0; widest], vec![0; widest]],
            negative: AtomicBool::new(true),
        };
        if skip.steps.iter().any(|step| step.slices.is_some()) {
            skip.order_slices();
        }
        Some(skip)
    }

    /// Orders the sources of all slices by how far a pixel in the middle of the input spreads.
    fn order_slices(&mut self) {
        let input = &mut self.maps[self.input];
        input.marks.fill(0);
        let middle = input.height / 2 * input.row + input.width / 2;
        input.marks[middle] = 1;
        self.spread();
        for slices in self
            .steps
            .iter_mut()
            .filter_map(|step| step.slices.as_mut())
        {
            let left = self.left.checked_sub(slices.bytes());
            self.left = left.unwrap_or(0);
            slices.order(|tensor| self.maps[tensor].count());
        }
    }

    /// Records the output that operator `index` has just written for an input of zeros.
    pub(super) fn record(&mut self, index: usize, place: &TensorPlace, arena: &[u8]) {
        let reference = Reference::new(place, &arena[place.buffer()]);
        let left = |reference: &Reference| self.left.checked_sub(reference.bytes());
        if let Some((reference, left)) = reference.and_then(|r| left(&r).map(|left| (r, left))) {
            self.left = left;
            self.steps[index].reference = Some(reference);
        }
    }

    /// Computes the backgrounds of operator `index`'s slices, by `background(quads, before, most)`, while the arena holds
    /// its input. Without one for the first level there are no slices.
    pub(super) fn record_slices(
        &mut self,
        index: usize,
        background: impl Fn(&Range<usize>, Option<&Reference>, usize) -> Option<Reference>,
    ) {
        let Some(mut slices) = self.steps[index].slices.take() else {
            return;
        };
        while let Some(found) = slices
            .next()
            .and_then(|(quads, before)| background(&quads, before, self.left))
        {
            let Some(left) = self.left.checked_sub(found.bytes()) else {
                break;
            };
            self.left = left;
            slices.push(found);
        }
        self.steps[index].slices = Some(slices).filter(|slices| slices.background(1).is_some());
    }

    /// Marks a frame's pixels, from the input through all operators.
    pub(super) fn mark(&mut self, pool: &Pool, input: &TensorPlace, arena: &[u8]) {
        *self.negative.get_mut() = false;
        self.maps[self.input].mark_input(pool, input, &arena[input.buffer()], &self.negative);
        self.spread();
    }

    /// Marks from the input through all operators.
    fn spread(&mut self) {
        for step in &self.steps {
            if let Some(whole) = step.whole {
                self.maps[whole].marks.fill(0);
            }
        }
        for step in &mut self.steps {
            // The output is not among the inputs, so its marks can be taken out meanwhile.
            let mut output = std::mem::take(&mut self.maps[step.output].marks);
            output.fill(0);
            let mut map = Marks {
                marks: output,
                ..self.maps[step.output].without_marks()
            };
            let mut inputs = &step.inputs[..];
            if let (Some(slices), [(_, reach), others @ ..]) = (&mut step.slices, inputs) {
                slices.mark(&mut map, |source, map| {
                    map.spread(&self.maps[source], reach, &mut self.rows);
                });
                inputs = others;
            }
            for (input, reach) in inputs {
                map.spread(&self.maps[*input], reach, &mut self.rows);
            }
            step.computed = map.share();
            if step.reference.is_none() || step.computed > step.dense {
                step.computed = 1.0;
            }
            if let Some(slices) = &mut step.slices {
                slices.settle(step.computed == 1.0);
            }
            if let Some(whole) = step.whole {
                or(&mut self.maps[whole].marks, &map.marks);
            }
            self.maps[step.output] = map;
        }
    }

    /// Whether the marked frame's input contains negative codes.
    pub(super) fn has_negative_codes(&self) -> bool {
        self.negative.load(Ordering::Relaxed)
    }

    /// Fraction of each operator's arithmetic that the marked frame does.
    pub(super) fn computed(&self) -> impl Iterator<Item = f32> {
        let share = |step: &StepMarks| step.slices.as_ref().map_or(1.0, Slices::share);
        self.steps
            .iter()
            .map(move |step| step.computed * share(step))
    }

    /// The pixels that operator `index` computes in the marked frame; `None` for all.
    pub(super) fn active(&self, index: usize) -> Option<Active<'_>> {
        let step = &self.steps[index];
        let reference = step.reference.as_ref().filter(|_| step.computed < 1.0)?;
        Some(Active {
            marks: &self.maps[step.output],
            unit: GROUP,
            others: Others::Reference(reference),
        })
    }

    /// The sources of operator `index`'s input in the marked frame, if it takes them one by one.
    pub(super) fn slices(&self, index: usize) -> Option<&Slices> {
        self.steps[index].slices.as_ref()
    }

    /// What operator `index` writes for an input of zeros, if that is stored.
    pub(super) fn reference(&self, index: usize) -> Option<&Reference> {
        self.steps[index].reference.as_ref()
    }
}
