use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::*;

/// All that a type can be made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct All {
    small: u8,
    large: u64,
    signed: i32,
    long: i64,
    fraction: f64,
    short: f32,
    truth: bool,
    letter: char,
    text: Option<String>,
    bytes: ByteBuf,
    pair: (u16, Option<i8>),
    list: Vec<Kind>,
    map: BTreeMap<String, Vec<u32>>,
    array: [u8; 3],
    nothing: (),
    empty: Empty,
    id: Id,
    #[serde(default)]
    late: Option<Box<Kind>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Empty;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Id(u64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Alone,
    One(Id),
    Two(i64, String),
    Fields { from: u32, to: Option<u32> },
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Alone),
        any::<u64>().prop_map(|id| Kind::One(Id(id))),
        (any::<i64>(), ".{0,40}").prop_map(|(number, text)| Kind::Two(number, text)),
        any::<(u32, Option<u32>)>().prop_map(|(from, to)| Kind::Fields { from, to }),
    ]
}

fn any_all() -> impl Strategy<Value = All> {
    let numbers = any::<(u8, u64, i32, i64, i16, bool, char, (u16, Option<i8>), [u8; 3])>();
    let map = proptest::collection::btree_map(
        ".{0,9}",
        proptest::collection::vec(any::<u32>(), 0..20),
        0..20,
    );
    let list = proptest::collection::vec(any_kind(), 0..20);
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    let text = proptest::option::of(".{0,300}");
    let late = proptest::option::of(any_kind().prop_map(Box::new));
    (numbers, text, bytes, list, map, late).prop_map(|(numbers, text, bytes, list, map, late)| {
        let (small, large, signed, long, short, truth, letter, pair, array) = numbers;
        All {
            small,
            large,
            signed,
            long,
            fraction: long as f64 / 3.0,
            short: f32::from(short),
            truth,
            letter,
            text,
            bytes: ByteBuf::from(bytes),
            pair,
            list,
            map,
            array,
            nothing: (),
            empty: Empty,
            id: Id(large),
            late,
        }
    })
}

proptest! {
    #[test]
    fn what_rmp_serde_writes_is_read(all in any_all(), after in any::<u8>()) {
        let mut bytes = rmp_serde::to_vec(&all).unwrap();
        prop_assert_eq!(from_bytes::<All>(&bytes), Ok(all));
        prop_assert!(from_bytes::<IgnoredAny>(&bytes).is_ok());
        bytes.push(after);
        prop_assert_eq!(from_bytes::<All>(&bytes), Err(Malformed));
    }

    #[test]
    fn what_is_read_is_what_rmp_serde_reads(
        all in any_all(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = rmp_serde::to_vec(&all).unwrap();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = from_bytes::<All>(&bytes) {
            let expected = rmp_serde::from_slice::<All>(&bytes).unwrap();
            // Text that has become a number that is none differs from itself.
            prop_assert_eq!(format!("{read:?}"), format!("{expected:?}"));
        }
    }

    #[test]
    fn any_value_is_read_as_json(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(read) = from_bytes::<serde_json::Value>(&bytes) {
            prop_assert_eq!(rmp_serde::from_slice::<serde_json::Value>(&bytes).unwrap(), read);
        }
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let read = |bytes: &[u8]| from_bytes::<u8>(bytes);
    assert_eq!(read(&[0xcd, 0, 200]), Ok(200));
    assert_eq!(read(&[0xd1, 0, 200]), Ok(200));
    for refused in [&[0xcd, 1, 0][..], &[0xff], &[0xd0, 0xff], &[0xca, 0, 0, 0, 0], &[0xc0]] {
        assert_eq!(read(refused), Err(Malformed), "{refused:x?}");
    }
    assert_eq!(from_bytes::<i8>(&[0xe0]), Ok(-32));
    assert_eq!(from_bytes::<i64>(&[0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed));
    assert_eq!(from_bytes::<f64>(&[0xe0]), Ok(-32.0));
}

#[test]
fn a_list_is_taken_to_its_end_and_no_further() {
    assert_eq!(from_bytes::<(u8, u8)>(&[0x92, 1, 2]), Ok((1, 2)));
    for refused in [&[0x93, 1, 2, 3][..], &[0x91, 1], &[0x92, 1], &[0xc4, 2, 1, 2], &[]] {
        assert_eq!(from_bytes::<(u8, u8)>(refused), Err(Malformed), "{refused:x?}");
    }
}

#[test]
fn an_enum_has_one_variant() {
    let one = |body: &[u8]| from_bytes::<Kind>(&[b"\x81\xa3One".as_slice(), body].concat());
    assert_eq!(one(&[7]), Ok(Kind::One(Id(7))));
    assert_eq!(one(&[0xc0]), Err(Malformed));
    assert_eq!(from_bytes::<Kind>(b"\xa5Alone"), Ok(Kind::Alone));
    assert_eq!(from_bytes::<Kind>(b"\x81\xa5Alone\xc0"), Ok(Kind::Alone));
    for refused in [&b"\xa3One"[..], b"\xa3Two", b"\x82\xa3One\x01\xa3One\x01", b"\xa4Four"] {
        assert_eq!(from_bytes::<Kind>(refused), Err(Malformed), "{refused:x?}");
    }
}

#[test]
fn values_are_no_deeper_than_the_limit() {
    let nested = |depth: usize| {
        let mut bytes = vec![0x91; depth];
        bytes.push(0xc0);
        from_bytes::<serde_json::Value>(&bytes)
    };
    assert!(nested(usize::from(DEPTH_MAX)).is_ok());
    assert_eq!(nested(usize::from(DEPTH_MAX) + 1), Err(Malformed));
    assert_eq!(nested(1_000_000), Err(Malformed));
}
