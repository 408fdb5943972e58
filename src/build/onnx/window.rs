//! Sliding windows of Conv, ConvTranspose and MaxPool: kernel, stride, dilation and padding, checked and
//! with defaults and `auto_pad` resolved, and the size of the output.

use super::node::Node;
use crate::build::Result;

/// The window of a Conv, ConvTranspose or MaxPool over a map [1, C, H, W].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step in rows and columns; for ConvTranspose, output pixels per input pixel.
    pub stride: [usize; 2],
    /// Distance between neighbouring taps in rows and columns.
    pub dilation: [usize; 2],
    /// Padding at the top, left, bottom and right, in ONNX's order; ConvTranspose crops by it.
    pub pad: [usize; 4],
    /// ConvTranspose: rows and columns added at the bottom and the right.
    pub output_padding: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
}

impl Window {
    /// The window of `node` over a map of `size` rows and columns. `kernel` is the size of the weight's
    /// kernel; MaxPool has no weight, only an attribute.
    ///
    /// # Errors
    /// [`BuildError::Node`](crate::build::BuildError::Node) if an attribute has an invalid length or
    /// value, or contradicts the weight.
    pub(crate) fn new(
        node: Node<'_>,
        size: [usize; 2],
        kernel: Option<[usize; 2]>,
    ) -> Result<Self> {
        let attribute = sizes::<2>(node, "kernel_shape", 1)?;
        let kernel = match (attribute, kernel) {
            (Some(attribute), Some(kernel)) if attribute != kernel => {
                return Err(node.error(format!(
                    "kernel_shape is {attribute:?}, but the weight's kernel is {kernel:?}"
                )));
            }
            (_, Some(kernel)) | (Some(kernel), None) => kernel,
            (None, None) => return Err(node.error("it has no kernel_shape")),
        };
        if node.int("ceil_mode", 0)? != 0 {
            return Err(node.error("ceil_mode 1 is not supported"));
        }
        if node.int("storage_order", 0)? != 0 {
            return Err(node.error("storage_order 1 is not supported"));
        }
        if node.ints("output_shape")?.is_some() {
            return Err(node.error(
                "output_shape is not supported; export the network with pads and output_padding",
            ));
        }
        let groups = node.int("group", 1)?;
        let mut window = Self {
            kernel,
            stride: sizes(node, "strides", 1)?.unwrap_or([1; 2]),
            dilation: sizes(node, "dilations", 1)?.unwrap_or([1; 2]),
            pad: sizes(node, "pads", 0)?.unwrap_or([0; 4]),
            output_padding: sizes(node, "output_padding", 0)?.unwrap_or([0; 2]),
            groups: usize::try_from(groups)
                .ok()
                .filter(|&g| g > 0)
                .ok_or_else(|| node.error(format!("group is {groups}")))?,
        };
        window.resolve_auto_pad(node, size)?;
        Ok(window)
    }

    /// Rows (axis 0) or columns (axis 1) that the dilated kernel covers.
    fn reach(&self, axis: usize) -> usize {
        let at = |v: &[usize; 2]| v.get(axis).copied().unwrap_or(1);
        (at(&self.kernel) - 1) * at(&self.dilation) + 1
    }

    fn resolve_auto_pad(&mut self, node: Node<'_>, size: [usize; 2]) -> Result<()> {
        let mode = node.string("auto_pad", "NOTSET")?;
        match mode {
            "" | "NOTSET" => return Ok(()),
            "VALID" => self.pad = [0; 4],
            "SAME_UPPER" | "SAME_LOWER" if node.op() != "ConvTranspose" => {
                let [top_bottom, left_right] = [0, 1].map(|axis| {
                    let (stride, len) = (self.stride[axis], size[axis]);
                    let total = ((len.div_ceil(stride).max(1) - 1) * stride + self.reach(axis))
                        .saturating_sub(len);
                    let (small, large) = (total / 2, total - total / 2);
                    if mode == "SAME_UPPER" {
                        (small, large)
                    } else {
                        (large, small)
                    }
                });
                self.pad = [top_bottom.0, left_right.0, top_bottom.1, left_right.1];
            }
            other => return Err(node.error(format!("auto_pad {other} is not supported"))),
        }
        if node
            .ints("pads")?
            .is_some_and(|p| p.iter().any(|&v| v != 0))
        {
            return Err(node.error(format!("it has both auto_pad {mode} and pads")));
        }
        Ok(())
    }

    /// Rows and columns of the output of a Conv or MaxPool over `size` rows and columns.
    ///
    /// # Errors
    /// [`BuildError::Node`](crate::build::BuildError::Node) if the window is larger than the padded
    /// map.
    pub(crate) fn output(&self, node: Node<'_>, size: [usize; 2]) -> Result<[usize; 2]> {
        let mut out = [0; 2];
        for axis in 0..2 {
            let padded = size[axis] + self.pad[axis] + self.pad[axis + 2];
            let reach = self.reach(axis);
            let rest = padded.checked_sub(reach).ok_or_else(|| {
                node.error(format!(
                    "its window of {reach} rows or columns is larger than the padded map of {padded}"
                ))
            })?;
            out[axis] = rest / self.stride[axis] + 1;
        }
        Ok(out)
    }

    /// Rows and columns of the output of a ConvTranspose over `size` rows and columns.
    ///
    /// # Errors
    /// [`BuildError::Node`](crate::build::BuildError::Node) if its padding crops the whole output.
    pub(crate) fn output_transposed(&self, node: Node<'_>, size: [usize; 2]) -> Result<[usize; 2]> {
        let mut out = [0; 2];
        for axis in 0..2 {
            let full = size[axis]
                .saturating_sub(1)
                .saturating_mul(self.stride[axis])
                + self.reach(axis)
                + self.output_padding[axis];
            let cut = self.pad[axis] + self.pad[axis + 2];
            out[axis] = full
                .checked_sub(cut)
                .filter(|&n| n > 0)
                .ok_or_else(|| node.error(format!("pads crop {cut} of {full} rows or columns")))?;
        }
        Ok(out)
    }
}

/// Reads an attribute of N sizes, each from `least` to 65535.
fn sizes<const N: usize>(node: Node<'_>, name: &str, least: u16) -> Result<Option<[usize; N]>> {
    let Some(values) = node.ints(name)? else {
        return Ok(None);
    };
    let checked = values.iter().map(|&v| {
        let v = u16::try_from(v).ok().filter(|&v| v >= least);
        v.map(usize::from)
    });
    let checked: Option<Vec<usize>> = checked.collect();
    let array = checked.and_then(|v| <[usize; N]>::try_from(v).ok());
    array.map(Some).ok_or_else(|| {
        node.error(format!(
            "{name} is {values:?}, expected {N} numbers from {least} to 65535, for two axes"
        ))
    })
}
