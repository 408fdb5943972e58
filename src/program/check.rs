//! Validates a program, which may come from a damaged or hostile file, before anything is allocated: every index, shape and
//! section that the CPU engine relies on.

use crate::program::layout::{LANES, wide_bias_len, wide_len};
use crate::program::layout::{MAX_DIM, MAX_KERNEL, MAX_MAP, SCALES};
use crate::program::layout::{int8_narrow_len, int8_wide_len, max_products};
use crate::program::{
    ALIGN, Conv, Op, OpKind, Program, ProgramError, Section, Tensor, WeightLayout,
};

/// Largest distance of a tap: a kernel of [`MAX_KERNEL`] with equally large dilation, plus padding.
const MAX_TAP: i32 = (MAX_KERNEL * MAX_KERNEL + MAX_KERNEL) as i32;

impl Program {
    /// Validates the program against a weight blob of `blob_len` bytes.
    pub fn validate(&self, blob_len: usize) -> Result<(), ProgramError> {
        for (index, tensor) in self.tensors.iter().enumerate() {
            self.check_tensor(tensor).map_err(|what| {
                ProgramError::payload(format!("tensor {index} `{}`: {what}", tensor.name))
            })?;
        }
        let mut written = WrittenChannels::new(self.tensors.len());
        let input = self.tensor(self.input).map_err(ProgramError::payload)?;
        if input.slice_of.is_some() {
            return Err(ProgramError::payload(
                "the network's input is a slice of another tensor".to_owned(),
            ));
        }
        need_zero_point_0(input).map_err(ProgramError::payload)?;
        written
            .add(self, self.input)
            .map_err(ProgramError::payload)?;
        for (index, op) in self.ops.iter().enumerate() {
            self.check_op(op, blob_len, &mut written).map_err(|what| {
                ProgramError::payload(format!("operator {index} `{}`: {what}", op.name))
            })?;
        }
        if self.outputs.is_empty() {
            return Err(ProgramError::payload(
                "the network has no outputs".to_owned(),
            ));
        }
        for output in &self.outputs {
            written
                .check(self, output.tensor)
                .and_then(|()| need_floats(self.tensor(output.tensor)?))
                .map_err(|what| {
                    ProgramError::payload(format!("output `{}`: {what}", output.name))
                })?;
        }
        Ok(())
    }

    /// Tensor `index`.
    fn tensor(&self, index: usize) -> Result<&Tensor, String> {
        let count = self.tensors.len();
        self.tensors
            .get(index)
            .ok_or_else(|| format!("tensor {index} does not exist, there are {count}"))
    }

    /// The tensor whose buffer holds tensor `index`, and the first channel within it.
    pub(crate) fn root(&self, index: usize) -> (usize, usize) {
        match self.tensors.get(index).and_then(|tensor| tensor.slice_of) {
            Some(slice) => (slice.tensor, slice.channel),
            None => (index, 0),
        }
    }

    fn check_tensor(&self, tensor: &Tensor) -> Result<(), String> {
        let shape = [tensor.channels, tensor.height, tensor.width];
        // Checking each size first keeps the product within 64 bits.
        let fits = shape.iter().all(|&d| (1..=MAX_DIM).contains(&d))
            && shape.iter().map(|&d| d as u64).product::<u64>() <= MAX_MAP as u64;
        if !fits {
            return Err(format!(
                "shape {shape:?} must have sizes of 1 to {MAX_DIM} and a product of at most {MAX_MAP}"
            ));
        }
        if let Some(scale) = tensor.scale.filter(|scale| !SCALES.contains(scale)) {
            return Err(format!("scale is {scale}, expected {SCALES:?}"));
        }
        if tensor.scale.is_none() {
            need_zero_point_0(tensor)?;
        }
        let Some(slice) = tensor.slice_of else {
            return Ok(());
        };
        let whole = self.tensor(slice.tensor)?;
        same_scale(tensor, whole)?;
        let end = slice.channel.checked_add(tensor.channels);
        let inside = end.is_some_and(|end| end <= whole.channels);
        if whole.slice_of.is_some()
            || !inside
            || [whole.height, whole.width] != [tensor.height, tensor.width]
        {
            return Err(format!(
                "{shape:?} from channel {} is not a slice of `{}`, {:?}",
                slice.channel,
                whole.name,
                [whole.channels, whole.height, whole.width]
            ));
        }
        Ok(())
    }

    /// Checks an operator: its inputs are written and have the right shape, its output is not written yet and lies in
    /// another buffer, and its constants are in the blob.
    fn check_op(
        &self,
        op: &Op,
        blob_len: usize,
        written: &mut WrittenChannels,
    ) -> Result<(), String> {
        let output = self.tensor(op.output)?;
        for index in op.inputs() {
            written.check(self, index)?;
            let input = self.tensor(index)?;
            match &op.kind {
                OpKind::Conv(_) => {}
                OpKind::Quantize { .. } => need_floats(input).and(need_codes(output))?,
                OpKind::Dequantize { .. } => need_codes(input).and(need_floats(output))?,
                OpKind::DepthToSpace { .. } | OpKind::MaxPool { .. } => same_scale(input, output)?,
                _ => need_floats(input).and(need_floats(output))?,
            }
            if self.root(index).0 == self.root(op.output).0 {
                return Err("reads the buffer that it writes".to_owned());
            }
        }
        let same = |index: usize| -> Result<(), String> {
            let expected = [output.channels, output.height, output.width];
            let input = self.tensor(index)?;
            let found = [input.channels, input.height, input.width];
            if found == expected {
                return Ok(());
            }
            Err(format!(
                "an input is {found:?}, expected {expected:?} like the output"
            ))
        };
        match &op.kind {
            OpKind::Conv(conv) => {
                if let Some(residual) = conv.residual {
                    same(residual)?;
                    need_zero_point_0(self.tensor(residual)?)?;
                    if !conv.layout.is_integer() {
                        need_floats(self.tensor(residual)?)?;
                    }
                }
                check_conv(conv, self.tensor(conv.input)?, output, blob_len)?;
            }
            OpKind::Affine {
                input,
                scale,
                shift,
                ..
            } => {
                same(*input)?;
                check_floats("scale", scale, Some(output.channels), blob_len)?;
                check_floats("shift", shift, Some(output.channels), blob_len)?;
            }
            OpKind::Add { a, b, .. } => {
                same(*a)?;
                same(*b)?;
            }
            OpKind::Relu { input }
            | OpKind::Sigmoid { input }
            | OpKind::Quantize { input }
            | OpKind::Dequantize { input } => same(*input)?,
            OpKind::DepthToSpace { input, block, .. } => {
                check_range("block", &[*block], 1)?;
                let input = self.tensor(*input)?;
                let expected = [input.channels, input.height * block, input.width * block];
                let found = [output.channels * block * block, output.height, output.width];
                if expected != found {
                    return Err(format!("the output holds {found:?}, expected {expected:?}"));
                }
            }
            OpKind::MaxPool {
                input,
                kernel,
                stride,
                pad,
            } => {
                check_range("kernel", kernel, 1)?;
                check_range("stride", stride, 1)?;
                check_range("pad", pad, 0)?;
                let input = self.tensor(*input)?;
                if input.channels != output.channels {
                    let (found, expected) = (input.channels, output.channels);
                    return Err(format!(
                        "the input has {found} channels, expected {expected}"
                    ));
                }
            }
        }
        written.add(self, op.output)
    }
}

impl Op {
    /// The tensors that the operator reads.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, second) = match &self.kind {
            OpKind::Conv(conv) => (conv.input, conv.residual),
            OpKind::Add { a, b, .. } => (*a, Some(*b)),
            OpKind::Affine { input, .. }
            | OpKind::Relu { input }
            | OpKind::Sigmoid { input }
            | OpKind::DepthToSpace { input, .. }
            | OpKind::MaxPool { input, .. }
            | OpKind::Quantize { input }
            | OpKind::Dequantize { input } => (*input, None),
        };
        std::iter::once(first).chain(second)
    }
}

/// Checks that all values are in `least..=MAX_KERNEL`.
fn check_range(what: &str, values: &[usize], least: usize) -> Result<(), String> {
    if values.iter().all(|v| (least..=MAX_KERNEL).contains(v)) {
        return Ok(());
    }
    Err(format!(
        "{what} is {values:?}, expected {least} to {MAX_KERNEL}"
    ))
}

/// Checks that a tensor holds f32.
fn need_floats(tensor: &Tensor) -> Result<(), String> {
    match tensor.scale {
        None => Ok(()),
        Some(_) => Err(format!("`{}` holds codes, expected f32", tensor.name)),
    }
}

/// Checks that a tensor holds codes.
fn need_codes(tensor: &Tensor) -> Result<(), String> {
    match tensor.scale {
        Some(_) => Ok(()),
        None => Err(format!("`{}` holds f32, expected codes", tensor.name)),
    }
}

/// Checks that a tensor's zero point is 0: the tensor holds f32, or codes that something outside the kernels writes or reads.
fn need_zero_point_0(tensor: &Tensor) -> Result<(), String> {
    match tensor.zero_point {
        0 => Ok(()),
        found => Err(format!(
            "`{}` has zero point {found}, expected 0",
            tensor.name
        )),
    }
}

/// Checks that two tensors have the same element type, scale and zero point.
fn same_scale(a: &Tensor, b: &Tensor) -> Result<(), String> {
    let (left, right) = ((a.scale, a.zero_point), (b.scale, b.zero_point));
    if left == right {
        return Ok(());
    }
    Err(format!(
        "`{}` has scale and zero point {left:?} but `{}` has {right:?}, expected the same",
        a.name, b.name
    ))
}

/// Checks that a section holds `len` f32 values and lies in the blob.
fn check_floats(
    what: &str,
    section: &Section,
    len: Option<usize>,
    blob_len: usize,
) -> Result<(), String> {
    let bytes = len.and_then(|len| len.checked_mul(size_of::<f32>()));
    check_section(what, section, bytes, blob_len)
}

/// Checks that a section has `expected` bytes and lies in the blob.
fn check_section(
    what: &str,
    section: &Section,
    expected: Option<usize>,
    blob_len: usize,
) -> Result<(), String> {
    let Section { offset, len: bytes } = *section;
    if expected != Some(bytes) {
        return Err(format!("{what} has {bytes} bytes, expected {expected:?}"));
    }
    let inside = offset.checked_add(bytes).is_some_and(|end| end <= blob_len);
    if !inside || !offset.is_multiple_of(ALIGN) {
        return Err(format!(
            "{what} at {offset} with {bytes} bytes must be aligned to {ALIGN} and inside the \
             {blob_len} bytes of weights"
        ));
    }
    Ok(())
}

/// Checks a convolution.
fn check_conv(conv: &Conv, input: &Tensor, output: &Tensor, blob_len: usize) -> Result<(), String> {
    check_range("stride", &conv.stride, 1)?;
    check_range("up", &conv.up, 1)?;
    let (channels, groups) = (input.channels, conv.groups);
    if groups == 0 || !channels.is_multiple_of(groups) || !output.channels.is_multiple_of(groups) {
        let out_channels = output.channels;
        return Err(format!(
            "groups is {groups}, which must divide {channels} and {out_channels} channels"
        ));
    }
    let integer = conv.layout.is_integer();
    if integer {
        need_codes(input)?;
    } else {
        need_floats(input).and(need_floats(output))?;
    }
    let whole = conv.layout == WeightLayout::NarrowQuad || channels.is_multiple_of(LANES);
    if conv.layout.is_narrow() && (groups != 1 || conv.residual.is_some() || !whole) {
        let found = format!("{groups} groups, {channels} channels");
        return Err(format!(
            "the narrow layout has a residual or {found}, expected no residual, 1 group and 16·n channels"
        ));
    }
    match conv.weight_bits {
        8 => {}
        4 if integer => {}
        found => {
            let layout = conv.layout;
            return Err(format!(
                "weights have {found} bits with layout {layout:?}, expected 8, or 4 for codes"
            ));
        }
    }
    let expected = conv.up[0] * conv.up[1];
    if conv.phases.len() != expected {
        return Err(format!(
            "has {} phases, expected {expected}",
            conv.phases.len()
        ));
    }
    for phase in &conv.phases {
        let taps = phase.taps.len();
        let near = |tap: &[i32; 2]| tap.iter().all(|d| (-MAX_TAP..=MAX_TAP).contains(d));
        if taps > MAX_KERNEL * MAX_KERNEL || !phase.taps.iter().all(near) {
            return Err(format!(
                "has {taps} taps, or one more than {MAX_TAP} pixels away"
            ));
        }
        let products = taps * (channels / groups);
        let most = max_products(input.zero_point);
        if integer && products > most {
            return Err(format!(
                "adds {products} products of codes, but a sum holds at most {most}"
            ));
        }
        let out_channels = output.channels;
        let weights = match conv.layout {
            WeightLayout::Wide => wide_len(groups, channels, out_channels, taps)
                .and_then(|len| len.checked_mul(size_of::<f32>())),
            WeightLayout::Narrow => (channels * taps)
                .checked_mul(out_channels)
                .and_then(|len| len.checked_mul(size_of::<f32>())),
            WeightLayout::Quad => int8_wide_len(groups, channels, out_channels, taps),
            WeightLayout::NarrowQuad => int8_narrow_len(channels, out_channels, taps),
        };
        // Two codes a byte; whole fragments make their number even.
        let weights = weights.map(|len| len / (8 / usize::from(conv.weight_bits)));
        let bias = if conv.layout.is_narrow() {
            out_channels
        } else {
            wide_bias_len(groups, out_channels)
        };
        check_section("weights", &phase.weights, weights, blob_len)?;
        check_floats("bias", &phase.bias, Some(bias), blob_len)?;
        match (&phase.multiplier, integer) {
            (Some(multiplier), true) => {
                check_floats("multiplier", multiplier, Some(bias), blob_len)?;
            }
            (None, false) => {}
            (found, _) => {
                let found = found.map_or("no", |_| "a");
                return Err(format!("{found} multiplier with layout {:?}", conv.layout));
            }
        }
    }
    Ok(())
}

/// The written channels of each buffer, as sorted ranges without overlap.
struct WrittenChannels(Vec<Vec<(usize, usize)>>);

impl WrittenChannels {
    fn new(tensors: usize) -> Self {
        Self(vec![Vec::new(); tensors])
    }

    /// The channels of tensor `index` in its buffer.
    fn range(program: &Program, index: usize) -> Result<(usize, (usize, usize)), String> {
        let channels = program.tensor(index)?.channels;
        let (root, first) = program.root(index);
        Ok((root, (first, first + channels)))
    }

    /// Marks tensor `index` as written. Writing twice is an error.
    fn add(&mut self, program: &Program, index: usize) -> Result<(), String> {
        let (root, range) = Self::range(program, index)?;
        let ranges = &mut self.0[root];
        let at = ranges.partition_point(|other| other.1 <= range.0);
        if ranges.get(at).is_some_and(|next| next.0 < range.1) {
            return Err(format!("tensor {index} is written twice"));
        }
        ranges.insert(at, range);
        Ok(())
    }

    /// Checks that tensor `index` is written completely.
    fn check(&self, program: &Program, index: usize) -> Result<(), String> {
        let (root, (mut first, end)) = Self::range(program, index)?;
        for range in &self.0[root] {
            if range.0 <= first && first < range.1 {
                first = range.1;
            }
        }
        if first >= end {
            return Ok(());
        }
        Err(format!("tensor {index} is read before it is written"))
    }
}
