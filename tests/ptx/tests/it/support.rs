//! Device memory for tests, and short forms to run a text.

use std::cell::RefCell;

use ptx::{Counts, Fault, FaultKind, Launch, Memory, Module, Options};

/// Words, and which of their bytes were written.
type Buffer = (Box<[u64]>, Vec<bool>);

/// Device memory: buffers of 8-byte words.
#[derive(Default)]
pub(crate) struct Heap {
    buffers: RefCell<Vec<Buffer>>,
}

impl Heap {
    /// A buffer with contents.
    pub(crate) fn buffer(&self, bytes: &[u8]) -> u64 {
        self.place(bytes, true)
    }

    /// A buffer that was never written.
    pub(crate) fn blank(&self, bytes: usize) -> u64 {
        self.place(&vec![0xee; bytes], false)
    }

    fn place(&self, bytes: &[u8], set: bool) -> u64 {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        for (i, &byte) in bytes.iter().enumerate() {
            words[i / 8] |= u64::from(byte) << (i % 8 * 8);
        }
        let words = words.into_boxed_slice();
        let address = words.as_ptr() as u64;
        self.buffers
            .borrow_mut()
            .push((words, vec![set; bytes.len()]));
        address
    }

    pub(crate) fn words(&self, values: &[u32]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.buffer(&bytes)
    }

    /// The contents of the buffer at an address.
    pub(crate) fn read(&self, address: u64) -> Vec<u8> {
        let buffers = self.buffers.borrow();
        let (words, set) = buffers
            .iter()
            .find(|b| b.0.as_ptr() as u64 == address)
            .expect("a buffer");
        let bytes = words.iter().flat_map(|word| {
            // The interpreter wrote through the address.
            std::hint::black_box(word).to_le_bytes()
        });
        bytes.take(set.len()).collect()
    }

    pub(crate) fn read_words(&self, address: u64) -> Vec<u32> {
        let bytes = self.read(address);
        bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }
}

impl Memory for Heap {
    fn allocation(&self, address: u64) -> Option<(u64, usize)> {
        self.buffers.borrow().iter().find_map(|(words, set)| {
            let start = words.as_ptr() as u64;
            (start..start + set.len() as u64)
                .contains(&address)
                .then_some((start, set.len()))
        })
    }

    fn initialised(&self, address: u64, bytes: usize) -> bool {
        self.buffers.borrow().iter().all(|(words, set)| {
            let start = words.as_ptr() as u64;
            if !(start..start + set.len() as u64).contains(&address) {
                return true;
            }
            let at = (address - start) as usize;
            set[at..at + bytes].iter().all(|&set| set)
        })
    }

    fn written(&self, address: u64, bytes: usize) {
        for (words, set) in self.buffers.borrow_mut().iter_mut() {
            let start = words.as_ptr() as u64;
            if (start..start + set.len() as u64).contains(&address) {
                let at = (address - start) as usize;
                set[at..at + bytes].fill(true);
            }
        }
    }
}

/// Runs a launch.
#[allow(unsafe_code)]
pub(crate) fn launch(
    module: &Module,
    launch: &Launch<'_>,
    heap: &Heap,
    options: &Options,
) -> Result<Counts, Fault> {
    // SAFETY: the heap's buffers live as long as it, and nobody else touches them meanwhile.
    unsafe { ptx::run(module, launch, heap, options) }
}

/// A module with one kernel `k` of the parameters `in` and `out` and plenty of registers; `%rd0` and `%rd1` hold the
/// parameters, `%r0` the thread and `%r1` the block.
pub(crate) fn text(body: &str) -> String {
    format!(
        ".version 8.5\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .b64 %rd<64>; .reg .b32 %r<64>; .reg .b16 %h<32>; .reg .f32 %f<32>; .reg .f64 %d<32>;\n\
         .reg .pred %p<16>;\nld.param.u64 %rd0, [in]; ld.param.u64 %rd1, [out];\n\
         mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;\n{body}\nret;\n}}\n"
    )
}

/// Lines before the body that is given to `warp`.
const BODY: usize = 10;

pub(crate) fn parse(body: &str) -> Module {
    Module::parse(&text(body)).unwrap_or_else(|error| panic!("{error}\n{}", text(body)))
}

/// Runs a body for `threads` threads in each of `blocks` blocks.
pub(crate) fn run_with(
    body: &str,
    (blocks, threads): (u32, u32),
    addresses: (u64, u64),
    heap: &Heap,
    options: &Options,
) -> Result<Counts, Fault> {
    let module = parse(body);
    let params: Vec<u8> = [addresses.0, addresses.1]
        .iter()
        .flat_map(|a| a.to_le_bytes())
        .collect();
    let grid = Launch {
        kernel: "k",
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared: 0,
        params: &params,
    };
    launch(&module, &grid, heap, options)
}

/// Runs a body for one warp; each thread stores `%r2` as its result.
pub(crate) fn warp(body: &str, input: &[u32], options: &Options) -> Result<Vec<u32>, Fault> {
    let heap = Heap::default();
    let (input, output) = (heap.words(input), heap.words(&[0xdead_beef; 32]));
    let body = format!(
        "mul.wide.u32 %rd2, %r0, 4; add.u64 %rd3, %rd0, %rd2; add.u64 %rd4, %rd1, %rd2; ld.global.u32 %r10, [%rd3];\n\
         {body}\nst.global.u32 [%rd4], %r2;"
    );
    run_with(&body, (1, 32), (input, output), &heap, options)?;
    Ok(heap.read_words(output))
}

/// Runs a body with one thread. The inputs are in `%rd10` and up, their low parts in `%r10`, `%h10`, `%f10`, `%d10`
/// and up; the result is `register`.
pub(crate) fn one(body: &str, register: &str, inputs: &[u64]) -> u64 {
    let heap = Heap::default();
    let bytes: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
    let (input, output) = (heap.buffer(&bytes), heap.buffer(&[0; 8]));
    let loads: String = (0..inputs.len())
        .map(|i| {
            let (n, at) = (10 + i, 8 * i);
            format!(
                "ld.global.u64 %rd{n}, [%rd0+{at}]; cvt.u32.u64 %r{n}, %rd{n}; cvt.u16.u64 %h{n}, %rd{n}; \
                 mov.b32 %f{n}, %r{n}; mov.b64 %d{n}, %rd{n};"
            )
        })
        .collect();
    let kind = match &register[..2] {
        "%r" if !register.starts_with("%rd") => "u32",
        "%h" => "u16",
        "%f" => "f32",
        "%d" => "f64",
        _ => "u64",
    };
    let body = format!("{loads}\n{body}\nst.global.{kind} [%rd1], {register};");
    run_with(&body, (1, 1), (input, output), &heap, &Options::default())
        .unwrap_or_else(|fault| panic!("{fault}"));
    let bytes = heap.read(output);
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

/// A 32-bit operation.
pub(crate) fn r(instruction: &str, inputs: &[u64]) -> u32 {
    one(instruction, "%r2", inputs) as u32
}

/// The fault of a body for one warp.
pub(crate) fn fault(body: &str) -> Fault {
    fault_with(body, &Options::default())
}

pub(crate) fn fault_with(body: &str, options: &Options) -> Fault {
    match warp(body, &[0; 32], options) {
        Ok(_) => panic!("no fault"),
        Err(fault) => fault,
    }
}

/// The line of a fault in the body, from 1.
pub(crate) fn line(fault: &Fault) -> usize {
    let place = fault.place.as_ref().expect("a place");
    place.line - BODY
}

/// The line of a fault's other place in the body, from 1.
pub(crate) fn other_line(fault: &Fault) -> usize {
    let other = match &fault.kind {
        FaultKind::Race { other, .. }
        | FaultKind::PendingCopy { other, .. }
        | FaultKind::BarrierDivergence { other }
        | FaultKind::BarrierMismatch { other, .. }
        | FaultKind::SyncMismatch { other } => other,
        kind => panic!("{kind}"),
    };
    other.line - BODY
}
