//! Device memory: addresses are host addresses, each access is checked against the allocations.
//!
//! The only file with `unsafe` code: reads and writes of raw memory, from 1 to 8 bytes.
#![allow(unsafe_code)]

use crate::module::{VARIABLE_BASE, WINDOW};
use crate::{Counts, Fault, Launch, Module, Options};

/// Device memory: addresses are host addresses.
pub trait Memory {
    /// The allocation that holds `address`: its first address and bytes; `None` if none does.
    fn allocation(&self, address: u64) -> Option<(u64, usize)>;

    /// Whether all of a range was ever written.
    fn initialised(&self, address: u64, bytes: usize) -> bool {
        let _ = (address, bytes);
        true
    }

    /// Told of each range that a kernel writes.
    fn written(&self, address: u64, bytes: usize) {
        let _ = (address, bytes);
    }
}

/// Memory of a launch, with the allocations that it used last.
pub(crate) struct Device<'a> {
    memory: &'a dyn Memory,
    /// First and last address plus one.
    recent: [(u64, u64); 8],
    next: usize,
    /// The module's variables, at `VARIABLE_BASE`.
    variables: Vec<u8>,
}

/// Runs a launch to its end.
///
/// # Safety
///
/// The allocations of `memory` are valid memory, and only this call touches them.
pub unsafe fn run(
    module: &Module,
    launch: &Launch<'_>,
    memory: &dyn Memory,
    options: &Options,
) -> Result<Counts, Fault> {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::new(memory, module.variables.clone()) };
    crate::run::start(module, launch, device, options)
}

fn number(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

impl<'a> Device<'a> {
    /// # Safety
    ///
    /// The allocations of `memory` stay valid, and nothing else touches them, while this lives.
    pub(crate) unsafe fn new(memory: &'a dyn Memory, variables: Vec<u8>) -> Self {
        Device {
            memory,
            recent: [(0, 0); 8],
            next: 0,
            variables,
        }
    }

    /// Whether the range is inside of an allocation.
    #[inline]
    fn holds(&mut self, address: u64, bytes: usize) -> bool {
        let Some(end) = address.checked_add(bytes as u64) else {
            return false;
        };
        if let Some(at) = self
            .recent
            .iter()
            .position(|r| r.0 <= address && end <= r.1)
        {
            // The allocation of most accesses is found at once.
            self.recent.swap(0, at);
            return true;
        }
        let Some((start, size)) = self.memory.allocation(address) else {
            return false;
        };
        let limit = start.saturating_add(size as u64);
        self.next = self.next % 7 + 1;
        self.recent[self.next] = (start, limit);
        start <= address && end <= limit
    }

    fn variable(address: u64) -> Option<usize> {
        (address & !WINDOW == VARIABLE_BASE).then_some((address & WINDOW) as usize)
    }

    /// The little-endian number of 1, 2, 4 or 8 bytes at an address; `None` outside of allocations.
    #[inline]
    pub(crate) fn read(&mut self, address: u64, bytes: usize) -> Option<u64> {
        if let Some(at) = Self::variable(address) {
            return self.variables.get(at..at + bytes).map(number);
        }
        if !self.holds(address, bytes) {
            return None;
        }
        // SAFETY: the range is inside of an allocation, which is valid memory that only this launch touches
        // (`new`). The reads need no alignment.
        unsafe {
            Some(match bytes {
                1 => u64::from((address as *const u8).read()),
                2 => u64::from((address as *const u16).read_unaligned().to_le()),
                4 => u64::from((address as *const u32).read_unaligned().to_le()),
                8 => (address as *const u64).read_unaligned().to_le(),
                _ => return None,
            })
        }
    }

    /// Writes a number of 1, 2, 4 or 8 bytes; `None` outside of allocations.
    #[inline]
    pub(crate) fn write(&mut self, address: u64, bytes: usize, value: u64) -> Option<()> {
        let value_bytes = value.to_le_bytes();
        if let Some(at) = Self::variable(address) {
            let target = self.variables.get_mut(at..at + bytes)?;
            target.copy_from_slice(&value_bytes[..bytes]);
            return Some(());
        }
        if !self.holds(address, bytes) {
            return None;
        }
        // SAFETY: as in `read`.
        unsafe {
            match bytes {
                1 => (address as *mut u8).write(value as u8),
                2 => (address as *mut u16).write_unaligned((value as u16).to_le()),
                4 => (address as *mut u32).write_unaligned((value as u32).to_le()),
                8 => (address as *mut u64).write_unaligned(value.to_le()),
                _ => return None,
            }
        }
        self.memory.written(address, bytes);
        Some(())
    }

    pub(crate) fn initialised(&self, address: u64, bytes: usize) -> bool {
        Self::variable(address).is_some() || self.memory.initialised(address, bytes)
    }
}
