//! The host's side of a device for tests: pinned memory, graphs and marks around a device that only has
//! memory and launches, as the emulation does. Every call is done at once; a graph is a list of calls.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use centerpoint::cuda::device::MARKS;
use centerpoint::cuda::{CudaError, Device, Launch, Place, Work};

/// What such a device offers; as the methods of [`Device`] of the same names.
pub(crate) trait Plain: Send + Sync {
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError>;
    fn free(&self, address: u64);
    fn upload(&self, what: &'static str, to: u64, bytes: &[u8]) -> Result<(), CudaError>;
    fn download(&self, what: &'static str, from: u64, bytes: &mut [u8]) -> Result<(), CudaError>;
    fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError>;
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
    marks: [Option<Instant>; MARKS],
}

#[derive(Clone)]
enum Call {
    Launch(Launch, Vec<u8>),
    Work(Work),
    Copy(&'static str, Place, Place, usize),
    Mark(usize),
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

    /// Records the call, or does it.
    fn call(&self, call: Call) -> Result<(), CudaError> {
        if let Some(calls) = &mut self.host().recording {
            calls.push(call);
            return Ok(());
        }
        self.run(&call)
    }

    fn run(&self, call: &Call) -> Result<(), CudaError> {
        match *call {
            Call::Launch(ref launch, ref params) => self.plain.launch(launch, params),
            // There is no stream.
            Call::Work(ref work) => work(0),
            Call::Mark(mark) => {
                self.host().marks[mark] = Some(Instant::now());
                Ok(())
            }
            Call::Copy(what, from, to, bytes) => {
                let mut values = vec![0; bytes];
                match from {
                    Place::Host { memory, at } => {
                        let range = at..at + bytes;
                        values.copy_from_slice(&self.host().memory[memory as usize - 1][range]);
                    }
                    Place::Device(from) => self.plain.download(what, from, &mut values)?,
                }
                match to {
                    Place::Host { memory, at } => {
                        self.host().memory[memory as usize - 1][at..at + bytes]
                            .copy_from_slice(&values);
                        Ok(())
                    }
                    Place::Device(to) => self.plain.upload(what, to, &values),
                }
            }
        }
    }

    /// Refuses what a driver cannot do while it records.
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

    fn memory_used(&self) -> Option<u64> {
        None
    }

    fn alloc(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        self.not_recording(what)?;
        self.plain.alloc(what, bytes)
    }

    fn free(&self, address: u64) {
        self.plain.free(address);
    }

    fn upload(&self, what: &'static str, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.not_recording(what)?;
        self.plain.upload(what, to, bytes)
    }

    fn download(&self, what: &'static str, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.not_recording(what)?;
        self.plain.download(what, from, bytes)
    }

    fn launch(&self, launch: &Launch, params: &[u8]) -> Result<(), CudaError> {
        self.call(Call::Launch(*launch, params.to_vec()))
    }

    fn enqueue(&self, _what: &'static str, work: &Work) -> Result<(), CudaError> {
        self.call(Call::Work(work.clone()))
    }

    fn alloc_host(&self, what: &'static str, bytes: usize) -> Result<u64, CudaError> {
        self.not_recording(what)?;
        let memory = &mut self.host().memory;
        memory.push(vec![0; bytes]);
        Ok(memory.len() as u64)
    }

    fn free_host(&self, _memory: u64) {
        // Kept until the device goes: a graph may still copy from it.
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

    fn copy(
        &self,
        what: &'static str,
        from: Place,
        to: Place,
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

    fn replay(&self, graph: u64) -> Result<(), CudaError> {
        self.not_recording("a graph")?;
        let calls = self.host().graphs[graph as usize - 1].clone();
        calls.iter().try_for_each(|call| self.run(call))
    }

    fn free_graph(&self, graph: u64) {
        self.host().graphs[graph as usize - 1].clear();
    }

    fn mark(&self, mark: usize) -> Result<(), CudaError> {
        self.call(Call::Mark(mark))
    }

    fn elapsed(&self, from: usize, to: usize) -> Result<f64, CudaError> {
        let marks = self.host().marks;
        match (marks[from], marks[to]) {
            (Some(from), Some(to)) => Ok((to - from).as_secs_f64() * 1e3),
            _ => Err(graph_error("a mark was not set")),
        }
    }
}
