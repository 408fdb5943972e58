//! The host side of a device for tests: pinned memory, graphs and marks around a device that only has memory and
//! launches, such as the emulation. Every call runs at once; a graph is a list of calls.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use centerpoint::cuda::{CudaError, Device, DevicePtr};
use centerpoint::internals::cuda::{CopyEnd, Launch, Stream, StreamWork};

/// Such a device: the methods of [`Device`] of the same names, with checked addresses.
pub(crate) trait Plain: Send + Sync {
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError>;
    fn free(&self, address: u64);
    fn upload(&self, what: &'static str, to: u64, bytes: &[u8]) -> Result<(), CudaError>;
    fn download(&self, what: &'static str, from: u64, bytes: &mut [u8]) -> Result<(), CudaError>;
    /// # Safety
    /// That of [`Device::launch`].
    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError>;
}

/// A plain device with pinned memory, graphs and marks.
pub(crate) struct Recorded<D> {
    plain: D,
    host: Mutex<Host>,
}

/// Handles are indices + 1.
#[derive(Default)]
struct Host {
    memory: Vec<Vec<u8>>,
    /// The calls since `begin`.
    recording: Option<Vec<Call>>,
    graphs: Vec<Vec<Call>>,
    /// By handle; `None` until it is set.
    marks: BTreeMap<u64, Option<Instant>>,
}

#[derive(Clone)]
enum Call {
    Launch(Launch, Vec<u8>),
    Work(StreamWork),
    Copy(&'static str, CopyEnd, CopyEnd, usize),
    Mark(u64),
}

impl<D: Plain> Recorded<D> {
    pub(crate) fn new(plain: D) -> Self {
        Self {
            plain,
            host: Mutex::default(),
        }
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap()
    }

    /// Records or runs a call.
    fn call(&self, call: Call) -> Result<(), CudaError> {
        if let Some(calls) = &mut self.host().recording {
            calls.push(call);
            return Ok(());
        }
        self.run(&call)
    }

    fn run(&self, call: &Call) -> Result<(), CudaError> {
        match *call {
            // SAFETY: the contract of `Device::launch`, or of `Device::replay` for a recorded one.
            Call::Launch(ref launch, ref params) => unsafe { self.plain.launch(launch, params) },
            Call::Work(ref work) => work(&Stream::DEFAULT),
            Call::Mark(mark) => {
                let mut host = self.host();
                let place = host.marks.get_mut(&mark);
                *place.ok_or_else(|| graph_error("there is no such mark"))? = Some(Instant::now());
                Ok(())
            }
            Call::Copy(what, from, to, bytes) => {
                let mut values = vec![0; bytes];
                match from {
                    CopyEnd::Host { memory, at } => {
                        let range = at..at + bytes;
                        values.copy_from_slice(&self.host().memory[memory as usize - 1][range]);
                    }
                    CopyEnd::Device(from) => {
                        self.plain.download(what, from.address(), &mut values)?
                    }
                }
                match to {
                    CopyEnd::Host { memory, at } => {
                        self.host().memory[memory as usize - 1][at..at + bytes]
                            .copy_from_slice(&values);
                        Ok(())
                    }
                    CopyEnd::Device(to) => self.plain.upload(what, to.address(), &values),
                }
            }
        }
    }

    /// Refuses calls that a driver cannot record.
    fn not_recording(&self, what: &str) -> Result<(), CudaError> {
        match self.host().recording {
            None => Ok(()),
            Some(_) => Err(graph_error(&format!("{what} while recording"))),
        }
    }
}

fn graph_error(reason: &str) -> CudaError {
    CudaError::Graph {
        reason: reason.into(),
    }
}

impl<D: Plain> Device for Recorded<D> {
    fn name(&self) -> &str {
        "emulation"
    }

    fn multiprocessors(&self) -> u32 {
        3
    }

    fn memory_used(&self) -> Option<u64> {
        None
    }

    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr<u8>, CudaError> {
        self.not_recording(what)?;
        let address = self.plain.alloc(what, bytes)?;
        // SAFETY: the memory was just allocated.
        Ok(unsafe { DevicePtr::from_address(address) })
    }

    unsafe fn free(&self, memory: DevicePtr<u8>) {
        self.plain.free(memory.address());
    }

    unsafe fn upload(
        &self,
        what: &'static str,
        to: DevicePtr<u8>,
        bytes: &[u8],
    ) -> Result<(), CudaError> {
        self.not_recording(what)?;
        self.plain.upload(what, to.address(), bytes)
    }

    unsafe fn download(
        &self,
        what: &'static str,
        from: DevicePtr<u8>,
        bytes: &mut [u8],
    ) -> Result<(), CudaError> {
        self.not_recording(what)?;
        self.plain.download(what, from.address(), bytes)
    }

    unsafe fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError> {
        self.call(Call::Launch(*launch, params.to_vec()))
    }

    fn enqueue(&self, _what: &'static str, work: &StreamWork) -> Result<(), CudaError> {
        self.call(Call::Work(work.clone()))
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.not_recording("a wait")
    }

    fn alloc_host(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        self.not_recording(what)?;
        let memory = &mut self.host().memory;
        memory.push(vec![0; bytes]);
        Ok(memory.len() as u64)
    }

    fn free_host(&self, _memory: u64) {
        // Kept until the device is dropped: a graph may still copy from it.
    }

    fn write_host(&self, memory: u64, at: usize, bytes: &[u8]) -> Result<(), CudaError> {
        self.not_recording("a write to pinned memory")?;
        self.host().memory[memory as usize - 1][at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read_host(&self, memory: u64, at: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.not_recording("a read of pinned memory")?;
        bytes.copy_from_slice(&self.host().memory[memory as usize - 1][at..at + bytes.len()]);
        Ok(())
    }

    unsafe fn copy(
        &self,
        what: &'static str,
        from: CopyEnd,
        to: CopyEnd,
        bytes: usize,
    ) -> Result<(), CudaError> {
        self.call(Call::Copy(what, from, to, bytes))
    }

    fn begin(&self) -> Result<(), CudaError> {
        self.not_recording("a second recording")?;
        self.host().recording = Some(Vec::new());
        Ok(())
    }

    fn end(&self) -> Result<u64, CudaError> {
        let mut host = self.host();
        let calls = host.recording.take();
        host.graphs
            .push(calls.ok_or_else(|| graph_error("nothing was recorded"))?);
        Ok(host.graphs.len() as u64)
    }

    unsafe fn replay(&self, graph: u64) -> Result<(), CudaError> {
        self.not_recording("a graph")?;
        let calls = self.host().graphs[graph as usize - 1].clone();
        calls.iter().try_for_each(|call| self.run(call))
    }

    fn free_graph(&self, graph: u64) {
        self.host().graphs[graph as usize - 1].clear();
    }

    fn create_mark(&self) -> Result<u64, CudaError> {
        self.not_recording("a mark")?;
        let marks = &mut self.host().marks;
        let handle = marks.keys().next_back().map_or(1, |last| last + 1);
        marks.insert(handle, None);
        Ok(handle)
    }

    fn free_mark(&self, mark: u64) {
        self.host().marks.remove(&mark);
    }

    fn mark(&self, mark: u64) -> Result<(), CudaError> {
        self.call(Call::Mark(mark))
    }

    fn elapsed(&self, from: u64, to: u64) -> Result<f64, CudaError> {
        let marks = &self.host().marks;
        match (marks.get(&from), marks.get(&to)) {
            (Some(Some(from)), Some(Some(to))) => Ok((*to - *from).as_secs_f64() * 1e3),
            _ => Err(graph_error("a mark was not set")),
        }
    }
}
