//! Codes of 4 bits, two in a byte: the first in the low bits, both in two's complement.

#[cfg(feature = "build")]
use super::codes::greatest_code;

/// The bits that codes need: 4 if all are within ±7, else 8.
#[cfg(feature = "build")]
pub(crate) fn bits_of(codes: &[i8]) -> u8 {
    let most = greatest_code(4);
    let few = codes.iter().all(|code| (-most..=most).contains(code));
    if few { 4 } else { 8 }
}

/// Packs codes within ±7. An odd last one shares its byte with a 0.
#[cfg(feature = "build")]
pub(crate) fn pack(codes: &[i8]) -> Vec<i8> {
    let byte = |pair: &[i8]| {
        let nibble = |at: usize| pair.get(at).copied().unwrap_or(0) & 0x0f;
        nibble(0) | (nibble(1) << 4)
    };
    codes.chunks(2).map(byte).collect()
}

/// The codes in packed bytes, two for each.
pub(crate) fn unpack(bytes: &[u8]) -> impl Iterator<Item = i8> + '_ {
    // An arithmetic shift to the right extends the sign.
    let pair = |byte: u8| [(byte << 4) as i8 >> 4, byte as i8 >> 4];
    bytes.iter().flat_map(move |&byte| pair(byte))
}

#[cfg(all(test, feature = "build"))]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_of_codes_survive_packing() {
        let all: Vec<i8> = (-7..=7)
            .flat_map(|a| (-7..=7).flat_map(move |b| [a, b]))
            .collect();
        let packed = pack(&all);
        assert_eq!(packed.len() * 2, all.len());
        let bytes: Vec<u8> = packed.iter().map(|&b| b as u8).collect();
        assert_eq!(unpack(&bytes).collect::<Vec<_>>(), all);
        assert_eq!(pack(&[3, -2, 5]), [0xe3_u8 as i8, 5]);
    }

    #[test]
    fn codes_beyond_7_need_8_bits() {
        assert_eq!(bits_of(&[-7, 0, 7]), 4);
        assert_eq!(bits_of(&[-8]), 8);
        assert_eq!(bits_of(&[0, 8]), 8);
    }
}
