//! Whose an attached program is: its name and tag, asked of the kernel by id.
//!
//! aya can only list every program of the machine; with a program per port, asking for one by id keeps the
//! cost of an attach independent of how many ports there are. Source: bpf(2), `linux/bpf.h`.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `BPF_PROG_GET_FD_BY_ID` of `enum bpf_cmd`.
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
/// `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// `BPF_OBJ_NAME_LEN`: a program's name with its final zero, in bytes.
const NAME_LEN: usize = 16;

/// `union bpf_attr` as `BPF_PROG_GET_FD_BY_ID` reads it.
#[repr(C)]
struct FdByIdRequest {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct InfoRequest {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_prog_info`, up to the name; the kernel fills as much as it is given room for.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited_insns: u64,
    xlated_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; NAME_LEN],
}

/// A loaded program, kept from vanishing while this lives.
pub(super) struct LoadedProgram {
    pub fd: OwnedFd,
    /// As its loader gave it; the kernel keeps at most 15 bytes.
    pub name: String,
    /// First 8 bytes of the hash over its instructions.
    pub tag: [u8; 8],
}

impl LoadedProgram {
    /// The program with this id; an error of kind `NotFound` if there is none.
    pub(super) fn by_id(id: u32) -> io::Result<Self> {
        let mut request = FdByIdRequest {
            id,
            next_id: 0,
            open_flags: 0,
        };
        let fd = bpf(BPF_PROG_GET_FD_BY_ID, &mut request)?;
        // SAFETY: the call succeeded, so it returned a descriptor that is open and that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let info = program_info(&fd)?;
        let name = CStr::from_bytes_until_nul(&info.name).unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            tag: info.tag,
            fd,
        })
    }
}

fn program_info(fd: &OwnedFd) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo::default();
    let mut request = InfoRequest {
        // A descriptor is never negative.
        fd: fd.as_raw_fd().unsigned_abs(),
        info_len: u32::try_from(size_of::<ProgramInfo>()).map_err(io::Error::other)?,
        info: u64::try_from((&raw mut info).expose_provenance()).map_err(io::Error::other)?,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok(info)
}

/// bpf(2), again if a signal came in between. `T` has the layout of a leading part of `union bpf_attr` that
/// holds all the fields of `command`, without padding; whatever memory it points the kernel to is the
/// caller's to keep.
fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<libc::c_int> {
    loop {
        // SAFETY: `request` is valid for reads and writes of the length passed, which is all the kernel
        // touches of it; the one pointer a request in this module holds is to a live `ProgramInfo` whose
        // length stands beside it.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *request, size_of::<T>()) };
        if result >= 0 {
            return libc::c_int::try_from(result).map_err(io::Error::other);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
