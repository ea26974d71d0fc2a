//! The mmap door: a file's bytes without reading them, for the offline inspection alone.
//!
//! A daemon never comes here: a page fault would hold up the thread that acknowledges, and a media error would be a signal
//! instead of an error (F4).

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

/// Maps a file for reading.
///
/// # Errors
/// When it cannot be opened or mapped.
pub(crate) fn map(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only, and lives as long as its last `Bytes`. Nobody changes the file meanwhile: the
    // inspection holds the directory's lock, which every daemon takes exclusively before it writes. Somebody who cuts the file
    // behind the lock's back ends this process with a signal; that is what a mapping means.
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapped))
}
