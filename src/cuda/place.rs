//! Where the engine's tensors lie in device memory: NHWC with a border, as in the CPU engine's arena, but with channels in
//! places that suit tensor cores.

use std::sync::Arc;

use super::device::{Buffer, DevicePtr, Memory};
use crate::map::Element;
use crate::program::Codes;

/// Alignment of pixels and first channels on tensor cores, in bytes: what a copy of a kernel moves.
const ALIGN: usize = 16;

/// [`ALIGN`] in elements of a type that tensor cores take; 1 of f32.
pub(crate) fn align(element: Element) -> usize {
    match element {
        Element::F32 => 1,
        element => ALIGN / element.bytes(),
    }
}

/// A tensor, and what its codes mean if it holds codes.
pub(crate) type Tensor<'a> = (&'a Place, Option<Codes>);

/// A tensor of the engine in device memory, which it keeps allocated. Strides and positions count elements.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    memory: Arc<Memory>,
    shape: PlaceShape,
}

/// The shape of a [`Place`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlaceShape {
    /// Type of the elements.
    pub(crate) element: Element,
    /// Rows H without the border.
    pub(crate) height: usize,
    /// Columns W without the border.
    pub(crate) width: usize,
    /// Width of the border in pixels.
    pub(crate) border: usize,
    /// Stride between pixels.
    pub(crate) pixel: usize,
    /// Position of each channel within a pixel, ascending.
    pub(crate) channels: Vec<u32>,
}

impl PlaceShape {
    /// Stride between rows.
    pub(crate) fn row(&self) -> usize {
        (self.width + 2 * self.border) * self.pixel
    }

    /// Elements of the buffer.
    pub(crate) fn len(&self) -> usize {
        (self.height + 2 * self.border) * self.row()
    }

    /// Index of position 0 of the map's first pixel.
    pub(crate) fn start(&self) -> usize {
        self.border * (self.row() + self.pixel)
    }

    /// The first channel's position.
    pub(crate) fn first(&self) -> usize {
        self.channels.first().map_or(0, |&first| first as usize)
    }

    /// Positions from the first channel's to the last one's, both included.
    pub(crate) fn span(&self) -> usize {
        let last = self.channels.last().map_or(0, |&last| last as usize);
        last + 1 - self.first()
    }

    /// Positions of a pixel that the kernels write: whole copies, except of f32.
    pub(crate) fn written(&self) -> usize {
        self.span().next_multiple_of(align(self.element))
    }

    /// Whether kernels can copy its pixels from the first channel on.
    pub(crate) fn is_aligned(&self) -> bool {
        let align = align(self.element);
        self.pixel.is_multiple_of(align) && self.first().is_multiple_of(align)
    }

    /// Whether the kernels can add it to results at `output`: its channels lie in the same order, and as many positions can
    /// be read as are written.
    pub(crate) fn adds_to(&self, output: &Self) -> bool {
        let relative =
            |shape: &Self, channel: usize| shape.channels[channel] as usize - shape.first();
        [self.height, self.width, self.channels.len()]
            == [output.height, output.width, output.channels.len()]
            && (0..self.channels.len()).all(|c| relative(self, c) == relative(output, c))
            && self.first() + output.written() <= self.pixel
    }

    /// Whether every channel lies in its pixel.
    fn is_sound(&self) -> bool {
        !self.channels.is_empty()
            && self.channels.is_sorted()
            && self.first() + self.span() <= self.pixel
    }
}

impl Place {
    /// A tensor in `buffer`; `None` if it exceeds it.
    pub(crate) fn new(buffer: &Buffer<u8>, shape: PlaceShape) -> Option<Self> {
        let bytes = shape.len().checked_mul(shape.element.bytes())?;
        (shape.is_sound() && bytes <= buffer.len()).then(|| Self {
            memory: buffer.memory().clone(),
            shape,
        })
    }

    /// The part of the channels that group `group` of `groups` has.
    pub(crate) fn group(&self, group: usize, groups: usize) -> Option<Self> {
        let count = self.shape.channels.len() / groups;
        let channels = self
            .shape
            .channels
            .get(group * count..(group + 1) * count)?;
        Some(Self {
            memory: self.memory.clone(),
            shape: PlaceShape {
                channels: channels.to_vec(),
                ..self.shape.clone()
            },
        })
    }

    pub(crate) fn shape(&self) -> &PlaceShape {
        &self.shape
    }

    /// The memory, for maps in it.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The address of an element.
    pub(super) fn at(&self, index: usize) -> DevicePtr<u8> {
        self.memory.at(index * self.shape.element.bytes())
    }

    /// Bytes that can be read from an element on.
    pub(super) fn bytes_from(&self, index: usize) -> usize {
        self.memory
            .bytes()
            .saturating_sub(index * self.shape.element.bytes())
    }
}

/// Whether a tensor holds elements of a type that goes with its codes.
pub(super) fn is_typed((place, codes): Tensor<'_>) -> bool {
    codes.is_some() == (place.shape.element == Element::I8)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cuda::Device;
    use crate::testing::Null;

    /// A device that only counts.
    pub(in crate::cuda) fn device() -> Arc<dyn Device> {
        Arc::new(Null::default())
    }

    /// A tensor of `[channels, height, width]` with a border of 1, and room behind it.
    pub(in crate::cuda) fn place(
        device: &Arc<dyn Device>,
        element: Element,
        [channels, height, width]: [usize; 3],
    ) -> Place {
        let shape = PlaceShape {
            element,
            height,
            width,
            border: 1,
            pixel: channels.next_multiple_of(align(element)),
            channels: (0..channels as u32).collect(),
        };
        let bytes = shape.len() * element.bytes() + 64;
        let buffer = Buffer::zeroed(device, "a tensor", bytes).unwrap();
        Place::new(&buffer, shape).unwrap()
    }

    #[test]
    fn a_tensor_lies_in_its_buffer() {
        let device = device();
        let place = place(&device, Element::I8, [20, 3, 4]);
        assert_eq!(place.shape().written(), 32);
        let buffer = Buffer::zeroed(&device, "too short", place.shape().len() - 1).unwrap();
        assert!(Place::new(&buffer, place.shape().clone()).is_none());
        assert!(
            place
                .group(1, 2)
                .is_some_and(|part| part.shape().first() == 10)
        );
        assert!(place.group(2, 2).is_none());
    }
}
