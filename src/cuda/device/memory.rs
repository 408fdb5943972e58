//! Owners of memory: [`Buffer`] on the device, [`Pinned`] on the host.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::{NoUninit, Pod};

use super::error::CudaError;
use super::interface::{CopyEnd, Device};
use super::ptr::DevicePtr;

/// An allocation on a device; freed when dropped.
pub(in crate::cuda) struct Memory {
    device: Arc<dyn Device>,
    what: &'static str,
    ptr: DevicePtr<u8>,
    bytes: usize,
}

impl Memory {
    pub(in crate::cuda) fn what(&self) -> &'static str {
        self.what
    }

    /// The address of a byte, at most that of the end.
    pub(in crate::cuda) fn at(&self, byte: usize) -> DevicePtr<u8> {
        // SAFETY: the result is inside this allocation or at its end.
        unsafe { self.ptr.add(byte.min(self.bytes)) }
    }

    pub(in crate::cuda) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads the first bytes, and waits for them. Fails if there are fewer.
    pub(in crate::cuda) fn download(&self, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.check(bytes.len())?;
        // SAFETY: the memory is alive and, as checked, long enough.
        unsafe { self.device.download(self.what, self.ptr, bytes) }
    }

    /// Writes the first bytes. Fails if there are fewer.
    pub(in crate::cuda) fn upload(&self, bytes: &[u8]) -> Result<(), CudaError> {
        self.check(bytes.len())?;
        // SAFETY: the memory is alive and, as checked, long enough.
        unsafe { self.device.upload(self.what, self.ptr, bytes) }
    }

    fn check(&self, bytes: usize) -> Result<(), CudaError> {
        if bytes <= self.bytes {
            return Ok(());
        }
        Err(CudaError::Copy {
            what: self.what,
            bytes,
            reason: format!("its device memory has {} bytes", self.bytes),
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `device` allocated it. Those who launch kernels and graphs keep what they use alive, see
        // `Device::launch` and `Device::replay`.
        unsafe { self.device.free(self.ptr) }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what, ptr, bytes, ..
        } = self;
        write!(f, "{what}: {bytes} bytes at {ptr:?}")
    }
}

/// Device memory that holds `len` values of `T`; freed when dropped, or with the last
/// [`DeviceMap`](crate::cuda::DeviceMap) in it.
pub struct Buffer<T> {
    memory: Arc<Memory>,
    len: usize,
    values: PhantomData<fn() -> T>,
}

impl<T: Copy + 'static> Buffer<T> {
    /// Zeroed memory for `len` values. `what` names it in errors.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn zeroed(
        device: &Arc<dyn Device>,
        what: &'static str,
        len: usize,
    ) -> Result<Self, CudaError> {
        Ok(Self {
            memory: Arc::new(Memory {
                device: device.clone(),
                what,
                ptr: device.alloc(what, len.max(1) * size_of::<T>())?,
                bytes: len * size_of::<T>(),
            }),
            len,
            values: PhantomData,
        })
    }

    /// Memory that holds `values`.
    ///
    /// # Errors
    /// [`CudaError::Memory`], [`CudaError::Copy`].
    pub fn new(
        device: &Arc<dyn Device>,
        what: &'static str,
        values: &[T],
    ) -> Result<Self, CudaError>
    where
        T: NoUninit,
    {
        let buffer = Self::zeroed(device, what, values.len())?;
        buffer.upload(values)?;
        Ok(buffer)
    }

    /// Its address on the device. It dangles once the buffer is dropped.
    pub fn ptr(&self) -> DevicePtr<T> {
        self.memory.ptr.cast()
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the first values; ignores those past the buffer's end.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn upload(&self, values: &[T]) -> Result<(), CudaError>
    where
        T: NoUninit,
    {
        let values = &values[..values.len().min(self.len)];
        self.memory.upload(bytemuck::cast_slice(values))
    }

    /// Reads the first `len` values, and waits for them: for tests and one-off reads.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub fn download(&self, len: usize) -> Result<Vec<T>, CudaError>
    where
        T: Pod,
    {
        let mut values = vec![T::zeroed(); len.min(self.len)];
        self.memory
            .download(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// The device that holds it.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.memory.device
    }

    pub(in crate::cuda) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:?})", self.memory)
    }
}

/// Pinned host memory that holds `len` values of `T`; freed when dropped. It lends no reference: reads and
/// writes copy, after they have waited for the device.
pub(crate) struct Pinned<T> {
    device: Arc<dyn Device>,
    what: &'static str,
    memory: u64,
    len: usize,
    values: PhantomData<fn() -> T>,
}

impl<T: Pod> Pinned<T> {
    /// Zeroed memory for `len` values. `what` names it in errors.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub(crate) fn zeroed(
        device: &Arc<dyn Device>,
        what: &'static str,
        len: usize,
    ) -> Result<Self, CudaError> {
        Ok(Self {
            device: device.clone(),
            what,
            memory: device.alloc_host(what, len.max(1) * size_of::<T>())?,
            len,
            values: PhantomData,
        })
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Waits for copies that use these values, then writes `values`, starting at value `at`. They may be of any type, so that a
    /// block of bytes can hold a header and what follows it; `at` counts values of `T`.
    ///
    /// # Errors
    /// [`CudaError::Copy`], also if they do not fit.
    pub(crate) fn write<U: NoUninit>(&mut self, at: usize, values: &[U]) -> Result<(), CudaError> {
        self.device.write_host(
            self.memory,
            at.saturating_mul(size_of::<T>()),
            bytemuck::cast_slice(values),
        )
    }

    /// Waits for the device, then reads values, starting at value `at`. As [`Pinned::write`].
    ///
    /// # Errors
    /// [`CudaError::Copy`], also if there are fewer; the error of an earlier kernel that failed.
    pub(crate) fn read<U: Pod>(&self, at: usize, values: &mut [U]) -> Result<(), CudaError> {
        self.device.read_host(
            self.memory,
            at.saturating_mul(size_of::<T>()),
            bytemuck::cast_slice_mut(values),
        )
    }

    /// Copies `len` values from value `at` on to the same place of a buffer, without waiting.
    ///
    /// # Errors
    /// [`CudaError::Copy`], also past the end of either.
    pub(crate) fn copy_part_to(
        &self,
        buffer: &Buffer<T>,
        at: usize,
        len: usize,
    ) -> Result<(), CudaError> {
        if at.saturating_add(len) > self.len.min(buffer.len()) {
            return Err(CudaError::Copy {
                what: self.what,
                bytes: len * size_of::<T>(),
                reason: format!("{} values in {}", at.saturating_add(len), self.len),
            });
        }
        let byte = at * size_of::<T>();
        let from = CopyEnd::Host {
            memory: self.memory,
            at: byte,
        };
        let to = CopyEnd::Device(buffer.memory().at(byte));
        // SAFETY: the buffer is alive and, as checked, long enough; `Buffer` frees it only after the copy has run.
        unsafe { self.device.copy(self.what, from, to, len * size_of::<T>()) }
    }

    /// Copies the first `len` values to a buffer, without waiting; ignores those past the end of either.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub(crate) fn copy_to(&self, buffer: &Buffer<T>, len: usize) -> Result<(), CudaError> {
        self.copy(
            self.start(),
            CopyEnd::Device(buffer.ptr().cast()),
            buffer,
            len,
        )
    }

    /// Copies the first `len` values from a buffer, without waiting; ignores those past the end of either.
    ///
    /// # Errors
    /// [`CudaError::Copy`].
    pub(crate) fn copy_from(&self, buffer: &Buffer<T>, len: usize) -> Result<(), CudaError> {
        self.copy(
            CopyEnd::Device(buffer.ptr().cast()),
            self.start(),
            buffer,
            len,
        )
    }

    fn copy(
        &self,
        from: CopyEnd,
        to: CopyEnd,
        buffer: &Buffer<T>,
        len: usize,
    ) -> Result<(), CudaError> {
        let bytes = len.min(self.len).min(buffer.len()) * size_of::<T>();
        // SAFETY: the end on the device is `buffer`, which is alive and long enough, and is freed only after
        // the copy has run.
        unsafe { self.device.copy(self.what, from, to, bytes) }
    }

    fn start(&self) -> CopyEnd {
        CopyEnd::Host {
            memory: self.memory,
            at: 0,
        }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.device.free_host(self.memory);
    }
}

impl<T> fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({}: {})", self.what, self.len)
    }
}
