//! A series of numbers as one line of blocks. Pure.

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The series in at most so many columns, each the mean of what falls into it, from 0 to the largest.
pub fn sparkline(values: &[u64], columns: usize) -> String {
    let columns = columns.min(values.len());
    let means: Vec<f64> = (0..columns)
        .map(|column| {
            let part = &values[column * values.len() / columns..(column + 1) * values.len() / columns];
            part.iter().sum::<u64>() as f64 / part.len() as f64
        })
        .collect();
    let top = means.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    means.iter().map(|mean| BLOCKS[((mean / top * 8.0).ceil() as usize).clamp(1, 8) - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_from_zero_to_the_largest() {
        let check = |values: &[u64], columns, expected| {
            assert_eq!(sparkline(values, columns), expected, "{values:?} in {columns}");
        };
        check(&[], 60, "");
        check(&[0, 0], 60, "▁▁");
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8], 60, "▁▁▂▃▄▅▆▇█");
        check(&[5, 5, 5], 60, "███");
        check(&[1 << 40, 1 << 39], 60, "█▄");
        check(&[0, 8, 8, 8, 0, 0], 3, "▄█▁");
        check(&[0, 8, 8, 8, 0], 2, "▆█"); // means of 2 and of 3
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        for length in 0..300 {
            let values: Vec<u64> = (0..length).collect();
            assert_eq!(sparkline(&values, 60).chars().count(), 60.min(values.len()));
        }
    }
}
