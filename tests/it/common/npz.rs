//! Reads as much of NumPy's archives as the golden files need.

use std::io::Read;

/// The values of `NAME.npy` in a `.npz` (a zip of deflated files), as bytes.
pub(crate) fn npy(zip: &[u8], name: &str) -> Vec<u8> {
    let u16_at = |at: usize| u16::from_le_bytes(zip[at..at + 2].try_into().unwrap()) as usize;
    let u32_at = |at: usize| u32::from_le_bytes(zip[at..at + 4].try_into().unwrap()) as usize;
    let end = zip.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
    let mut entry = u32_at(end + 16);
    for _ in 0..u16_at(end + 10) {
        assert_eq!(&zip[entry..entry + 4], b"PK\x01\x02");
        let (length, extra, comment) = (u16_at(entry + 28), u16_at(entry + 30), u16_at(entry + 32));
        if &zip[entry + 46..entry + 46 + length] == format!("{name}.npy").as_bytes() {
            assert_eq!(u16_at(entry + 10), 8, "not deflated");
            let local = u32_at(entry + 42);
            let data = local + 30 + u16_at(local + 26) + u16_at(local + 28);
            let mut file = Vec::new();
            let mut inflate = flate2::read::DeflateDecoder::new(&zip[data..]);
            inflate.read_to_end(&mut file).unwrap();
            assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
            let header = u16::from_le_bytes([file[8], file[9]]) as usize;
            return file.split_off(10 + header);
        }
        entry += 46 + length + extra + comment;
    }
    panic!("no {name}.npy in the archive");
}
