//! Typed addresses of device memory.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

use bytemuck::{NoUninit, Zeroable};

/// The address of values of `T` in device memory, as kernels' parameter structs hold it.
///
/// Like a raw pointer, it may dangle: whatever follows it is `unsafe`. A safe way to obtain one is
/// [`Buffer::ptr`](super::Buffer::ptr). It can be viewed as bytes but not made from them.
#[repr(transparent)]
pub struct DevicePtr<T> {
    address: u64,
    values: PhantomData<fn() -> T>,
}

impl<T> DevicePtr<T> {
    /// Points nowhere.
    pub const NULL: Self = Self {
        address: 0,
        values: PhantomData,
    };

    /// Wraps a raw address (a `CUdeviceptr`, or a pointer of CUDA's runtime).
    ///
    /// # Safety
    /// `address` is 0, or is aligned for `T` and lies in device memory that holds values of `T`.
    pub unsafe fn from_address(address: u64) -> Self {
        Self {
            address,
            values: PhantomData,
        }
    }

    /// The raw address.
    pub fn address(self) -> u64 {
        self.address
    }

    /// The address `count` values further on.
    ///
    /// # Safety
    /// The memory that this points to has at least `count` values of `T`.
    pub unsafe fn add(self, count: usize) -> Self {
        // SAFETY: the result stays inside the same memory, by this function's contract.
        unsafe { Self::from_address(self.address + (count * size_of::<T>()) as u64) }
    }

    /// The same address for values of another type.
    pub fn cast<U>(self) -> DevicePtr<U> {
        DevicePtr {
            address: self.address,
            values: PhantomData,
        }
    }
}

impl<T> Clone for DevicePtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DevicePtr<T> {}

impl<T> PartialEq for DevicePtr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl<T> Eq for DevicePtr<T> {}

impl<T> fmt::Debug for DevicePtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

// SAFETY: a transparent wrapper of a `u64`, which has no padding.
unsafe impl<T: 'static> NoUninit for DevicePtr<T> {}
// SAFETY: all zeros is `NULL`.
unsafe impl<T> Zeroable for DevicePtr<T> {}
