//! The shared libraries of this process: the loader, the C library and the unwinder.

/// Unmaps what has been touched of the libraries' code and constants. Most of it was for the start alone: the loader,
/// symbol tables, files, names. What is used again is mapped again from the page cache, a fault for 64 KiB at once; the
/// rest, about a megabyte, no longer counts as ours.
///
/// Our own code stays: half of it is wanted as soon as clients come. And so does all code where addresses have 32 bits:
/// there the loader may write to it (text relocations), and would not do so again.
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
pub fn unmap_library_code() {
    use std::ffi::{c_int, c_void};
    use std::{ptr, slice};

    use libc::{MADV_DONTNEED, PF_W, PT_LOAD, dl_iterate_phdr, dl_phdr_info, madvise};

    unsafe extern "C" fn unmap(object: *mut dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
        // SAFETY: the loader lends us an object that it has loaded, with its headers and its name, for this call.
        let (object, headers, is_program) = unsafe {
            let object = &*object;
            let headers = slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
            (object, headers, *object.dlpi_name == 0) // only the program itself has no name
        };
        if is_program {
            return 0;
        }
        // SAFETY: it takes a number and returns one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        for segment in headers.iter().filter(|header| header.p_type == PT_LOAD && header.p_flags & PF_W == 0)
        {
            let start = object.dlpi_addr + segment.p_vaddr;
            let end = start + segment.p_memsz;
            let first = start - start % page;
            // SAFETY: a segment that is never written, not even by the loader, is a private mapping of a file: what is
            // unmapped is mapped again from there with the next access, as after the kernel has reclaimed it.
            unsafe { madvise(first as *mut c_void, (end - first) as usize, MADV_DONTNEED) };
        }
        0
    }
    // SAFETY: `unmap` has the signature that is asked for, unwinds nowhere and ignores the pointer.
    unsafe { dl_iterate_phdr(Some(unmap), ptr::null_mut()) };
}

/// Elsewhere nothing is done.
#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
pub fn unmap_library_code() {}
