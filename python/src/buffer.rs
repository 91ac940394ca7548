//! Memory that crosses between Python and Rust without a copy.
//!
//! Outwards, [`borrow`] takes the memory of any object that exports it (PEP 3118) as [`Bytes`].
//! Inwards, [`lend`] makes an object that exports the memory of some [`Bytes`], read-only, and
//! keeps it alive; [`hand_over`] makes one that may be written to, of memory that nobody else has.
//! `PyO3` has both only from the stable ABI of Python 3.11 on. The functions and the slots' numbers
//! are the same in 3.10, where they are no part of that ABI yet, so they are declared here.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use furlong_wire::limits::INLINE_PAYLOAD_BYTES_MAX;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes};

/// Results up to this size are copied into `bytes`, which is cheaper than an object that shares
/// them.
const COPY_BYTES_MAX: usize = 4096;

/// `Py_buffer`, as the stable ABI has it since 3.11, and `CPython` since 3.3.
#[repr(C)]
struct View {
    buf: *mut c_void,
    obj: *mut ffi::PyObject,
    len: isize,
    itemsize: isize,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut isize,
    strides: *mut isize,
    suboffsets: *mut isize,
    internal: *mut c_void,
}

/// A request for plain bytes, contiguous, read-only or not.
const PYBUF_SIMPLE: c_int = 0;
/// The slot's number for types that are made from a spec.
const BF_GETBUFFER: c_int = 1;

unsafe extern "C" {
    fn PyObject_GetBuffer(object: *mut ffi::PyObject, view: *mut View, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut View);
    fn PyBuffer_FillInfo(
        view: *mut View,
        object: *mut ffi::PyObject,
        bytes: *mut c_void,
        len: isize,
        readonly: c_int,
        flags: c_int,
    ) -> c_int;
}

/// Takes an object's memory. The object must not be changed before the last of the bytes is
/// dropped.
///
/// # Errors
/// `BufferError` if the object exports no contiguous memory.
pub fn borrow(object: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(bytes) = object.cast::<PyBytes>()
        && bytes.as_bytes().len() <= COPY_BYTES_MAX
    {
        return Ok(Bytes::copy_from_slice(bytes.as_bytes()));
    }
    // SAFETY: all fields are integers or pointers, for which zero is a value.
    let mut view: Box<View> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: the object lives, this thread is attached, and the view is a `Py_buffer` in a place
    // of its own.
    if unsafe { PyObject_GetBuffer(object.as_ptr(), &raw mut *view, PYBUF_SIMPLE) } != 0 {
        return Err(PyErr::fetch(object.py()));
    }
    if view.len < 0 || (view.buf.is_null() && view.len != 0) {
        // SAFETY: it was filled just now.
        unsafe { PyBuffer_Release(&raw mut *view) };
        return Err(PyBufferError::new_err("the object's buffer has no memory"));
    }
    Ok(Bytes::from_owner(Borrowed { view: Some(view) }))
}

/// Memory of a Python object, which keeps the object.
struct Borrowed {
    view: Option<Box<View>>,
}

// SAFETY: the exporter keeps the memory in its place until the view is released, which happens with
// the interpreter's lock (see `Drop`); until then any thread may read it. That nobody writes is the
// caller's promise, as for every buffer that Python hands to another thread.
unsafe impl Send for Borrowed {}
// SAFETY: as above.
unsafe impl Sync for Borrowed {}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        match &self.view {
            // SAFETY: `borrow` has looked that the view has memory of this length; it is released
            // only by `Drop`.
            Some(view) if view.len > 0 => unsafe {
                std::slice::from_raw_parts(view.buf.cast::<u8>(), view.len.unsigned_abs())
            },
            _ => &[],
        }
    }
}

/// Views that are to be released by a thread with the interpreter's lock.
static RETURNED: Mutex<Vec<Borrowed>> = Mutex::new(Vec::new());

impl Drop for Borrowed {
    fn drop(&mut self) {
        // Mostly this is the network's thread, which must not wait for the interpreter's lock.
        if let Some(view) = self.view.take() {
            RETURNED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Borrowed { view: Some(view) });
        }
    }
}

/// Releases what was borrowed and is no longer needed.
pub fn release_returned(_: Python<'_>) {
    let returned = std::mem::take(&mut *RETURNED.lock().unwrap_or_else(PoisonError::into_inner));
    for mut borrowed in returned {
        if let Some(mut view) = borrowed.view.take() {
            // SAFETY: it was filled by `PyObject_GetBuffer` and is released once; this thread is
            // attached.
            unsafe { PyBuffer_Release(&raw mut *view) };
        }
    }
}

/// An object with these bytes: a copy as `bytes` if they are few, else one that shares them,
/// read-only.
pub fn lend<'py>(py: Python<'py>, bytes: &Bytes) -> PyResult<Bound<'py, PyAny>> {
    if bytes.len() <= COPY_BYTES_MAX {
        return Ok(PyBytes::new(py, bytes).into_any());
    }
    export(py, bytes.clone(), true)
}

/// An object with these bytes that may be written to: a copy if they are few, else the memory
/// itself.
///
/// The bytes are a buffer of a result, and nobody has a clone of them. Large buffers of results are
/// slices of one allocation that was made for the result, and do not overlap.
pub fn hand_over(py: Python<'_>, bytes: Bytes) -> PyResult<Bound<'_, PyAny>> {
    if bytes.len() <= COPY_BYTES_MAX {
        return Ok(PyByteArray::new(py, &bytes).into_any());
    }
    export(py, bytes, false)
}

const _: () =
    assert!(COPY_BYTES_MAX >= INLINE_PAYLOAD_BYTES_MAX, "the memory of inline payloads is shared");

fn export(py: Python<'_>, bytes: Bytes, is_read_only: bool) -> PyResult<Bound<'_, PyAny>> {
    let kind = lent_type(py)?;
    // SAFETY: the type is one of ours, made by `PyType_FromSpec`, with the size of `Lent`.
    let object = unsafe { ffi::PyType_GenericAlloc(kind.as_ptr().cast(), 0) };
    // SAFETY: it is a new reference, or null with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, object)? };
    let exported = Exported { bytes, is_read_only };
    // SAFETY: the allocation is for a `Lent`, and its field is not initialised yet; nobody else has
    // the object.
    unsafe {
        (&raw mut (*object.as_ptr().cast::<Lent>()).exported).write(Some(Box::new(exported)));
    };
    Ok(object)
}

/// An object that exports bytes.
#[repr(C)]
struct Lent {
    head: ffi::PyObject,
    /// Zeroed memory, as the allocation has it, is none.
    exported: Option<Box<Exported>>,
}

struct Exported {
    bytes: Bytes,
    is_read_only: bool,
}

fn lent_type(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let kind = TYPE.get_or_try_init(py, || {
        let mut slots = [
            ffi::PyType_Slot { slot: BF_GETBUFFER, pfunc: lent_get as *mut c_void },
            ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: lent_dealloc as *mut c_void },
            ffi::PyType_Slot { slot: 0, pfunc: std::ptr::null_mut() },
        ];
        let mut spec = ffi::PyType_Spec {
            name: c"furlong._furlong.Received".as_ptr(),
            basicsize: c_int::try_from(size_of::<Lent>()).expect("it has three words"),
            itemsize: 0,
            flags: u32::try_from(ffi::Py_TPFLAGS_DEFAULT).expect("the default flags are low bits"),
            slots: slots.as_mut_ptr(),
        };
        // SAFETY: spec and slots are complete and live for the call, which copies them; the name is
        // static.
        unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)).map(Bound::unbind)
        }
    })?;
    Ok(kind.bind(py))
}

/// `bf_getbuffer`.
unsafe extern "C" fn lent_get(object: *mut ffi::PyObject, view: *mut View, flags: c_int) -> c_int {
    // SAFETY: Python calls this with an object of the type, which lives, and with its lock.
    let exported = unsafe { &(*object.cast::<Lent>()).exported };
    let (start, len, is_read_only) =
        exported.as_ref().map_or((std::ptr::null(), 0, true), |exported| {
            (exported.bytes.as_ptr(), exported.bytes.len(), exported.is_read_only)
        });
    // SAFETY: the view is Python's, to be filled; it keeps the object, and so the bytes. They never
    // change if they are read-only. Else the memory is a `Vec`'s or a private mapping's, which may
    // be written to; nobody else has bytes of it (see `hand_over`), and we do not read them.
    unsafe {
        PyBuffer_FillInfo(
            view,
            object,
            start.cast_mut().cast(),
            len.cast_signed(),
            c_int::from(is_read_only),
            flags,
        )
    }
}

/// `tp_dealloc`.
unsafe extern "C" fn lent_dealloc(object: *mut ffi::PyObject) {
    // SAFETY: Python calls this once, at the end of the object, whose field `lend` has written or
    // left as none.
    unsafe {
        (&raw mut (*object.cast::<Lent>()).exported).drop_in_place();
        let kind = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        // Objects of types that are made from a spec keep their type.
        ffi::Py_DECREF(kind.cast());
    }
}
