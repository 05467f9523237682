//! The driver's status codes: their numbers, names and texts.

use std::ffi::CStr;

pub(crate) use cudarc::driver::sys::CUresult as Status;

/// What a step of a call comes to.
pub(crate) type Result<T = (), E = Status> = std::result::Result<T, E>;

const fn text(terminated: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(terminated.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a zero byte inside a name"),
    }
}

macro_rules! codes {
    ($($name:ident $text:literal,)*) => {
        const CODES: &[(Status, &CStr, &CStr)] =
            &[$((Status::$name, text(concat!(stringify!($name), "\0")), text(concat!($text, "\0")))),*];
    };
}

codes! {
    CUDA_SUCCESS "no error",
    CUDA_ERROR_INVALID_VALUE "invalid argument",
    CUDA_ERROR_OUT_OF_MEMORY "out of memory",
    CUDA_ERROR_NOT_INITIALIZED "initialization error",
    CUDA_ERROR_DEINITIALIZED "driver shutting down",
    CUDA_ERROR_NO_DEVICE "no CUDA-capable device is detected",
    CUDA_ERROR_INVALID_DEVICE "invalid device ordinal",
    CUDA_ERROR_INVALID_IMAGE "device kernel image is invalid",
    CUDA_ERROR_INVALID_CONTEXT "invalid device context",
    CUDA_ERROR_NO_BINARY_FOR_GPU "no kernel image is available for execution on the device",
    CUDA_ERROR_ECC_UNCORRECTABLE "uncorrectable ECC error encountered",
    CUDA_ERROR_INVALID_PTX "a PTX JIT compilation failed",
    CUDA_ERROR_JIT_COMPILER_NOT_FOUND "PTX JIT compiler library not found",
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION "the provided PTX was compiled with an unsupported toolchain",
    CUDA_ERROR_INVALID_HANDLE "invalid resource handle",
    CUDA_ERROR_ILLEGAL_STATE "the operation cannot be performed in the present state",
    CUDA_ERROR_NOT_FOUND "named symbol not found",
    CUDA_ERROR_NOT_READY "device not ready",
    CUDA_ERROR_ILLEGAL_ADDRESS "an illegal memory access was encountered",
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES "too many resources requested for launch",
    CUDA_ERROR_LAUNCH_TIMEOUT "the launch timed out and was terminated",
    CUDA_ERROR_CONTEXT_IS_DESTROYED "context is destroyed",
    CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED "part or all of the requested memory range is already mapped",
    CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED "pointer does not correspond to a registered memory region",
    CUDA_ERROR_ILLEGAL_INSTRUCTION "an illegal instruction was encountered",
    CUDA_ERROR_MISALIGNED_ADDRESS "misaligned address",
    CUDA_ERROR_LAUNCH_FAILED "unspecified launch failure",
    CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE "too many blocks in cooperative launch",
    CUDA_ERROR_NOT_PERMITTED "operation not permitted",
    CUDA_ERROR_NOT_SUPPORTED "operation not supported",
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH "system has unsupported display driver / cuda driver combination",
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED "operation not permitted when stream is capturing",
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED "operation failed due to a previous error during capture",
    CUDA_ERROR_STREAM_CAPTURE_MERGE "operation would result in a merge of separate capture sequences",
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED "capture was not ended in the same stream as it began",
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED "capturing stream has unjoined work",
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION "dependency created on uncaptured work in another stream",
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT "operation would make the legacy stream depend on a capturing blocking stream",
    CUDA_ERROR_CAPTURED_EVENT "operation not permitted on an event last recorded in a capturing stream",
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD "attempt to terminate a thread-local capture sequence from another thread",
    CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE "the graph update was not performed because it included changes which violated constraints specific to instantiated graph update",
    CUDA_ERROR_INVALID_CLUSTER_SIZE "a kernel launch error has occurred due to cluster misconfiguration",
    CUDA_ERROR_UNKNOWN "unknown error",
}

/// Code, name and text of a number.
pub(crate) fn describe(code: u32) -> Option<(Status, &'static CStr, &'static CStr)> {
    CODES.iter().copied().find(|(status, ..)| *status as u32 == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_names() {
        let (status, name, text) = describe(700).unwrap();
        assert_eq!(status, Status::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!((name, text), (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"));
        assert!(describe(123_456).is_none());
    }
}
