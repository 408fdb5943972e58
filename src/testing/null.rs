//! A device that only counts: the memory that a frame needs, and the shapes of its launches.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::cuda::device::{CopyEnd, CudaError, Device, DevicePtr, Launch, StreamWork};

/// A device without memory, which reads as zeros.
#[derive(Debug, Default)]
pub struct Null {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: usize,
    handles: u64,
    /// Threads and dynamic shared memory of each kernel.
    launches: BTreeMap<&'static str, (u32, u32)>,
}

impl Null {
    /// Bytes of device memory that were allocated.
    pub fn bytes(&self) -> usize {
        self.counts.lock().unwrap().bytes
    }

    /// Kernels with the threads and the dynamic shared memory of a block.
    pub fn launches(&self) -> BTreeMap<&'static str, (u32, u32)> {
        self.counts.lock().unwrap().launches.clone()
    }

    fn handle(&self) -> Result<u64, CudaError> {
        let mut counts = self.counts.lock().unwrap();
        counts.handles += 256;
        Ok(counts.handles)
    }
}

impl Device for Null {
    fn name(&self) -> &str {
        "null"
    }

    fn memory_used(&self) -> Option<u64> {
        None
    }

    fn multiprocessors(&self) -> u32 {
        1
    }

    fn alloc(&self, _what: &'static str, bytes: usize) -> Result<DevicePtr<u8>, CudaError> {
        self.counts.lock().unwrap().bytes += bytes;
        // SAFETY: this device never follows an address.
        Ok(unsafe { DevicePtr::from_address(self.handle()?) })
    }

    unsafe fn free(&self, _memory: DevicePtr<u8>) {}

    unsafe fn upload(
        &self,
        _what: &'static str,
        _to: DevicePtr<u8>,
        _bytes: &[u8],
    ) -> Result<(), CudaError> {
        Ok(())
    }

    unsafe fn download(
        &self,
        _what: &'static str,
        _from: DevicePtr<u8>,
        bytes: &mut [u8],
    ) -> Result<(), CudaError> {
        bytes.fill(0);
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch, _params: &[u8]) -> Result<(), CudaError> {
        let shape = (launch.block, launch.shared);
        let mut counts = self.counts.lock().unwrap();
        counts.launches.insert(launch.kernel, shape);
        Ok(())
    }

    fn enqueue(&self, _what: &'static str, _work: &StreamWork) -> Result<(), CudaError> {
        Ok(())
    }

    fn wait(&self) -> Result<(), CudaError> {
        Ok(())
    }

    fn alloc_host(&self, _what: &'static str, _bytes: usize) -> Result<u64, CudaError> {
        self.handle()
    }

    fn free_host(&self, _memory: u64) {}

    fn write_host(&self, _memory: u64, _at: usize, _bytes: &[u8]) -> Result<(), CudaError> {
        Ok(())
    }

    fn read_host(&self, _memory: u64, _at: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        bytes.fill(0);
        Ok(())
    }

    unsafe fn copy(
        &self,
        _what: &'static str,
        _from: CopyEnd,
        _to: CopyEnd,
        _bytes: usize,
    ) -> Result<(), CudaError> {
        Ok(())
    }

    fn begin(&self) -> Result<(), CudaError> {
        Ok(())
    }

    fn end(&self) -> Result<u64, CudaError> {
        self.handle()
    }

    unsafe fn replay(&self, _graph: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn free_graph(&self, _graph: u64) {}

    fn create_mark(&self) -> Result<u64, CudaError> {
        self.handle()
    }

    fn free_mark(&self, _mark: u64) {}

    fn mark(&self, _mark: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn elapsed(&self, _from: u64, _to: u64) -> Result<f64, CudaError> {
        Ok(0.0)
    }
}
