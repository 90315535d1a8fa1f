//! The middle of some measurements.

/// The median; the mean of the two in the middle of an even number. Zero of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => (below + above) / 2.0,
        (_, Some(middle)) => *middle,
        _ => 0.0,
    }
}

/// Rounded to so many decimals, as figures are written down.
pub(crate) fn rounded(value: f64, decimals: i32) -> f64 {
    let factor = 10f64.powi(decimals);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (values, expected) in [
            (&[][..], 0.0),
            (&[3.0], 3.0),
            (&[9.0, 1.0], 5.0),
            (&[5.0, 1.0, 100.0], 5.0),
            (&[4.0, 1.0, 2.0, 3.0], 2.5),
        ] {
            assert!(
                (median(values) - expected).abs() < f64::EPSILON,
                "{values:?}: {}",
                median(values)
            );
        }
        assert!((rounded(1.005_1, 2) - 1.01).abs() < f64::EPSILON);
    }
}
