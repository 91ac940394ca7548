//! Cuts a list down, while what is left still does what the whole did: delta debugging.

/// The shortest list that is found by leaving out parts, large ones first.
pub fn shrink<T: Clone>(mut list: Vec<T>, still: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut part = list.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut is_shorter = false;
        while at < list.len() {
            let end = (at + part).min(list.len());
            let without: Vec<T> = list[..at].iter().chain(&list[end..]).cloned().collect();
            if still(&without) {
                list = without;
                is_shorter = true;
            } else {
                at = end;
            }
        }
        part = if is_shorter && part == 1 { 1 } else { part / 2 };
    }
    list
}

#[cfg(test)]
mod tests {
    use super::shrink;

    #[test]
    fn what_matters_is_left_and_nothing_else() {
        let needs = |list: &[u32]| list.contains(&17) && list.contains(&60) && list.len() >= 2;
        assert_eq!(shrink((0..100).collect(), needs), [17, 60]);
        assert!(shrink(vec![1, 2, 3], |_| true).is_empty());
    }
}
