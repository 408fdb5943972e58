//! The structs of `centerpoint.h`, and reading and writing the extensible ones.
//!
//! A struct that starts with `struct_size` may get new members at its end. Members missing in the caller's
//! struct read as 0; members beyond ours must be 0 when read, and are set to 0 when written. The structs have
//! no padding, so a new member always changes the size.
#![allow(unsafe_code, non_camel_case_types)]

use std::ffi::{c_char, c_void};
use std::mem::{MaybeUninit, align_of};

use bytemuck::{Pod, Zeroable};

use super::status::Failure;

/// Upper limit of a struct's size; a larger `struct_size` is uninitialised memory.
const MAX_STRUCT: usize = 4096;

/// `cp_options` of the header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_options {
    pub struct_size: usize,
    pub threads: u32,
    pub device: i32,
    pub score: f32,
    pub intensity_scale: f32,
    pub budget_ms: f64,
    pub delay_ms: f64,
    pub tensorrt: *const c_char,
    pub ground: i32,
    pub ground_height: f32,
    pub extrinsic: [f64; 6],
    pub ignore_box: [f32; 6],
    pub has_extrinsic: u32,
    pub reserved: u32,
}

/// `cp_field` of the header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_field {
    pub name: *const c_char,
    pub offset: u32,
    pub datatype: u32,
    pub count: u32,
}

/// `cp_cloud` of the header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_cloud {
    pub struct_size: usize,
    pub data: *const c_void,
    pub data_size: usize,
    pub width: u32,
    pub height: u32,
    pub point_step: u32,
    pub row_step: u32,
    pub fields: *const cp_field,
    pub field_count: usize,
    pub is_bigendian: u32,
    pub reserved: u32,
}

/// `cp_pose` of the header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_pose {
    pub x: f64,
    pub y: f64,
    pub z: f64,
    pub qx: f64,
    pub qy: f64,
    pub qz: f64,
    pub qw: f64,
}

/// `cp_box` of the header: a [`crate::Box3d`] with `class` renamed, which is a keyword in C++.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_box {
    pub center: [f32; 3],
    pub size: [f32; 3],
    pub yaw: f32,
    pub velocity: [f32; 2],
    pub score: f32,
    pub class_id: u32,
}

/// `cp_variances` of the header: [`crate::Variances`].
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_variances {
    pub center: [f32; 3],
    pub size: [f32; 3],
    pub yaw: f32,
    pub velocity: [f32; 2],
}

/// `cp_model_info` of the header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_model_info {
    pub struct_size: usize,
    pub class_count: usize,
    pub column_count: usize,
    pub sweeps: usize,
    pub capacity: usize,
    pub max_boxes: usize,
    pub threads: usize,
    pub range: [f64; 6],
}

/// `cp_frame_info` of the header.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_frame_info {
    pub struct_size: usize,
    pub points: u64,
    pub dropped_non_finite: u64,
    pub dropped_out_of_range: u64,
    pub dropped_pillar_points: u64,
    pub dropped_pillars: u64,
    pub dropped_candidates: u64,
    pub dropped_non_finite_candidates: u64,
    pub dropped_sweep_points: u64,
    pub read_ms: f64,
    pub pillars_ms: f64,
    pub features_ms: f64,
    pub scatter_ms: f64,
    pub engine_ms: f64,
    pub decode_ms: f64,
    pub nms_ms: f64,
    pub total_ms: f64,
    pub sweeps: u32,
    pub sweeps_without_pose: u32,
    pub missing_intensity: u32,
    pub reserved: u32,
    pub ground_height: f32,
    pub ground_spread: f32,
    pub ground_cells: u32,
    pub reserved2: u32,
}

/// `cp_deadline_info` of the header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)] // documented in the header
pub struct cp_deadline_info {
    pub struct_size: usize,
    pub budget_ms: f64,
    pub budget_delay_ms: f64,
    pub frames: u64,
    pub misses: u64,
    pub consecutive: u64,
    pub longest: u64,
    pub last_ms: f64,
    pub delay_ms: f64,
    pub level: i32,
    pub reserved: u32,
}

/// A struct that may get new members.
///
/// # Safety
/// It is `repr(C)` without padding, starts with `struct_size`, and any bytes are a valid value.
pub(super) unsafe trait Extensible: Copy {
    /// The struct's name, for messages.
    const NAME: &'static str;
    /// Its size in the header of version 0.1.0, the smallest one.
    const FIRST: usize;
}

// SAFETY: meets the trait's contract; the size is the sum of its members'.
unsafe impl Extensible for cp_options {
    const NAME: &'static str = "cp_options";
    const FIRST: usize = 48;
}

// SAFETY: as above.
unsafe impl Extensible for cp_cloud {
    const NAME: &'static str = "cp_cloud";
    const FIRST: usize = 64;
}

// SAFETY: as above.
unsafe impl Extensible for cp_model_info {
    const NAME: &'static str = "cp_model_info";
    const FIRST: usize = 104;
}

// SAFETY: as above.
unsafe impl Extensible for cp_frame_info {
    const NAME: &'static str = "cp_frame_info";
    const FIRST: usize = 152;
}

// SAFETY: as above.
unsafe impl Extensible for cp_deadline_info {
    const NAME: &'static str = "cp_deadline_info";
    const FIRST: usize = 80;
}

/// The caller's `struct_size`, checked.
///
/// # Safety
/// `from` is NULL or a struct of its `struct_size`.
unsafe fn size<T: Extensible>(from: *const T) -> Result<usize, Failure> {
    check(from, T::NAME)?;
    // SAFETY: not NULL, aligned, and the struct starts with its size.
    let found = unsafe { from.cast::<usize>().read() };
    if (T::FIRST..=MAX_STRUCT).contains(&found) {
        return Ok(found);
    }
    Err(Failure::StructSize {
        name: T::NAME,
        found,
        expected: size_of::<T>(),
    })
}

/// Reads a struct that may be shorter or longer than this library's.
///
/// # Safety
/// As for [`size`].
pub(super) unsafe fn read<T: Extensible>(from: *const T) -> Result<T, Failure> {
    // SAFETY: the caller's contract.
    let found = unsafe { size(from) }?;
    let ours = size_of::<T>();
    if found > ours {
        // SAFETY: the struct has `found` bytes.
        let beyond =
            unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(ours), found - ours) };
        if beyond.iter().any(|&byte| byte != 0) {
            return Err(Failure::Newer(T::NAME));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both have that many bytes, and any bytes are a valid `T`.
    unsafe {
        value
            .as_mut_ptr()
            .cast::<u8>()
            .copy_from_nonoverlapping(from.cast(), found.min(ours));
        Ok(value.assume_init())
    }
}

/// Writes the members of `value` that the caller's struct has; keeps its `struct_size`.
///
/// # Safety
/// As for [`size`]; and nothing else uses the struct.
pub(super) unsafe fn write<T: Extensible>(to: *mut T, value: &T) -> Result<(), Failure> {
    // SAFETY: the caller's contract.
    let found = unsafe { size(to.cast_const()) }?;
    let (skip, both) = (size_of::<usize>(), found.min(size_of::<T>()));
    // SAFETY: the caller's struct has `found` bytes and ours `size_of::<T>()`, both more than `skip`.
    unsafe {
        let (to, from) = (to.cast::<u8>(), std::ptr::from_ref(value).cast::<u8>());
        to.add(skip)
            .copy_from_nonoverlapping(from.add(skip), both - skip);
        to.add(both).write_bytes(0, found - both);
    }
    Ok(())
}

/// Rejects NULL and misaligned pointers.
pub(super) fn check<T>(pointer: *const T, name: &'static str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::Null(name));
    }
    if !pointer.is_aligned() {
        return Err(Failure::Unaligned(name, align_of::<T>()));
    }
    Ok(())
}

/// The caller's array; may be NULL if it is empty.
///
/// # Safety
/// `start` is NULL, or has `len` elements that do not change during `'a`.
pub(super) unsafe fn slice<'a, T>(
    start: *const T,
    len: usize,
    name: &'static str,
) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    check(start, name)?;
    check_len::<T>(len, name)?;
    // SAFETY: the caller's contract, and the checks.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// Rejects lengths that no array of `T` can have.
fn check_len<T>(len: usize, name: &'static str) -> Result<(), Failure> {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err(Failure::Length(name, len)),
    }
}

/// The caller's array for results.
#[derive(Clone, Copy)]
pub(super) struct Output<T> {
    items: *mut T,
    capacity: usize,
    found: *mut usize,
}

impl<T: Pod> Output<T> {
    /// Checks the caller's array and sets `*found` to 0.
    ///
    /// # Safety
    /// `items` is NULL or has room for `capacity` items; `found` is NULL or writable. Both stay valid while
    /// this is in use, and nothing else uses them.
    pub(super) unsafe fn new(
        items: *mut T,
        name: &'static str,
        capacity: usize,
        found: *mut usize,
    ) -> Result<Self, Failure> {
        check(found.cast_const(), "found")?;
        // SAFETY: checked, and the caller's contract.
        unsafe { found.write(0) };
        if capacity > 0 {
            check(items.cast_const(), name)?;
            check_len::<T>(capacity, name)?;
        }
        Ok(Self {
            items,
            capacity,
            found,
        })
    }

    /// Writes as many items as fit, and the total number. `U` is the Rust type with the same bytes as `T`.
    pub(super) fn write<U: Pod>(self, items: &[U]) {
        let items: &[T] = bytemuck::cast_slice(items);
        let count = items.len().min(self.capacity);
        // SAFETY: contract of `new`: there is room for `capacity` items and for the number.
        unsafe {
            if count > 0 {
                self.items.copy_from_nonoverlapping(items.as_ptr(), count);
            }
            self.found.write(items.len());
        }
    }
}
