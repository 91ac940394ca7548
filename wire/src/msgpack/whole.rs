//! A check that a msgpack value is complete, before anything is made of it.

/// The length of the value at the front of some bytes, if all of it is there. Nothing is allocated,
/// and nothing recurses: a list that declares more elements than have come costs a look at those.
pub fn value_bytes(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let mut wanted: u64 = 1;
    while wanted > 0 {
        // Each value takes a byte at least. Stops early, and keeps the sum small.
        if wanted > rest.len() as u64 {
            return None;
        }
        let (data, values) = take_marker(&mut rest)?;
        rest = rest.get(data..)?;
        wanted = wanted - 1 + values;
    }
    Some(bytes.len() - rest.len())
}

/// Takes the marker of a value and the length after it: how many bytes of data follow, and how many
/// values.
fn take_marker(rest: &mut &[u8]) -> Option<(usize, u64)> {
    let (&marker, after) = rest.split_first()?;
    *rest = after;
    Some(match marker {
        // Small integers, nil, and the truth values.
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
        0x80..=0x8f => (0, 2 * u64::from(marker & 0x0f)),
        0x90..=0x9f => (0, u64::from(marker & 0x0f)),
        0xa0..=0xbf => (usize::from(marker & 0x1f), 0),
        // Byte strings and texts, by the width of their length.
        0xc4 | 0xd9 => (take_length(rest, 1)?, 0),
        0xc5 | 0xda => (take_length(rest, 2)?, 0),
        0xc6 | 0xdb => (take_length(rest, 4)?, 0),
        // Extensions have a byte for their kind as well.
        0xc7 => (take_length(rest, 1)? + 1, 0),
        0xc8 => (take_length(rest, 2)? + 1, 0),
        0xc9 => (take_length(rest, 4)? + 1, 0),
        0xd4..=0xd8 => ((1 << (marker - 0xd4)) + 1, 0),
        // Numbers of a fixed width.
        0xcc | 0xd0 => (1, 0),
        0xcd | 0xd1 => (2, 0),
        0xca | 0xce | 0xd2 => (4, 0),
        0xcb | 0xcf | 0xd3 => (8, 0),
        0xdc => (0, take_length(rest, 2)? as u64),
        0xdd => (0, take_length(rest, 4)? as u64),
        0xde => (0, 2 * take_length(rest, 2)? as u64),
        0xdf => (0, 2 * take_length(rest, 4)? as u64),
        // Never used by msgpack.
        0xc1 => return None,
    })
}

fn take_length(rest: &mut &[u8], width: usize) -> Option<usize> {
    let (length, after) = rest.split_at_checked(width)?;
    *rest = after;
    Some(length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Serialize;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug, Serialize)]
    enum Any {
        Nothing,
        Truth(bool),
        Number(i64),
        Fraction(f64),
        Text(String),
        Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
        List(Vec<Any>),
        Map(BTreeMap<u16, Any>),
    }

    fn any_value() -> impl Strategy<Value = Any> {
        let leaf = prop_oneof![
            Just(Any::Nothing),
            any::<bool>().prop_map(Any::Truth),
            any::<i64>().prop_map(Any::Number),
            any::<f64>().prop_map(Any::Fraction),
            ".{0,40}".prop_map(Any::Text),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Any::Bytes),
        ];
        leaf.prop_recursive(4, 64, 20, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..20).prop_map(Any::List),
                proptest::collection::btree_map(any::<u16>(), inner, 0..20).prop_map(Any::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_is_whole_at_its_end_and_not_before(value in any_value(), after in any::<u8>()) {
            let mut bytes = rmp_serde::to_vec(&value).unwrap();
            let len = bytes.len();
            bytes.push(after);
            prop_assert_eq!(value_bytes(&bytes), Some(len));
            for end in 0..len {
                prop_assert_eq!(value_bytes(&bytes[..end]), None);
            }
        }

        #[test]
        fn any_bytes_are_measured_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            prop_assert!(value_bytes(&bytes).is_none_or(|len| (1..=bytes.len()).contains(&len)));
        }
    }

    #[test]
    fn every_marker_of_msgpack_has_its_length() {
        for (bytes, len) in [
            (&[0xc7, 3, 1, 0, 0, 0][..], 6),
            (&[0xc8, 0, 1, 9, 0], 5),
            (&[0xc9, 0, 0, 0, 0, 9], 6),
            (&[0xd4, 9, 0], 3),
            (&[0xd8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 18),
            (&[0xca, 0, 0, 0, 0], 5),
            (&[0xdf, 0, 0, 0, 1, 1, 2], 7),
            (&[0xdd, 0, 0, 0, 2, 0xc0, 0xc3], 7),
        ] {
            assert_eq!(value_bytes(bytes), Some(len), "{bytes:x?}");
            assert_eq!(value_bytes(&bytes[..len - 1]), None, "{bytes:x?}");
        }
        assert_eq!(value_bytes(&[0xc1]), None);
    }
}
