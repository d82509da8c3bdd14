//! TFRecords: length (8 bytes), its checksum (4), the data, their checksum (4).

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use crate::output::Output;

const HEADER: usize = 12;
const FOOTER: usize = 4;
const MASK: u32 = 0xA282_EAD8;

/// Where a record is: an open file, its first byte there, its bytes in all, and the first byte of the mel in its data.
pub struct Place {
    pub file: i32,
    pub begin: u64,
    pub size: usize,
    pub mel: usize,
}

/// Reads records: their mels go to `mel`, and the bytes before and after them to `rest`. Returns which records are whole.
pub fn read_records(places: &[Place], mel: &mut Output, rest: &mut Output) -> io::Result<Vec<bool>> {
    let mut record = Vec::new();
    let mut whole = vec![false; places.len()];
    for (row, place) in places.iter().enumerate() {
        let end = place.mel + mel.width();
        // The record must hold the mel, and the rest of it must fit.
        if place.size < HEADER + end + FOOTER || place.size - HEADER - FOOTER - mel.width() > rest.width() {
            continue;
        }
        record.resize(place.size, 0);
        if read_at(place.file, &mut record, place.begin)? < place.size || !is_whole(&record) {
            continue;
        }
        let data = &record[HEADER..place.size - FOOTER];
        mel.row(row).copy_from_slice(&data[place.mel..end]);
        let (head, tail) = (&data[..place.mel], &data[end..]);
        let out = rest.row(row);
        out[..head.len()].copy_from_slice(head);
        out[head.len()..head.len() + tail.len()].copy_from_slice(tail);
        whole[row] = true;
    }
    Ok(whole)
}

/// Fills memory from a place of a file; returns how many bytes there were.
fn read_at(file: i32, memory: &mut [u8], begin: u64) -> io::Result<usize> {
    // SAFETY: the caller holds the file open, and `ManuallyDrop` leaves it open.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(file) });
    let mut got = 0;
    while got < memory.len() {
        match file.read_at(&mut memory[got..], begin + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn is_whole(record: &[u8]) -> bool {
    let (header, rest) = record.split_at(HEADER);
    let (data, footer) = rest.split_at(rest.len() - FOOTER);
    header[..8] == (data.len() as u64).to_le_bytes() && header[8..] == masked(&header[..8]) && footer == masked(data)
}

fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(MASK).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_only_if_both_checksums_fit() {
        let mut record = 3u64.to_le_bytes().to_vec();
        record.extend(masked(&record));
        record.extend(b"abc");
        record.extend(masked(b"abc"));
        assert!(is_whole(&record));
        for byte in 0..record.len() {
            let mut damaged = record.clone();
            damaged[byte] ^= 1;
            assert!(!is_whole(&damaged));
        }
    }
}
