//! Computes medians and spread.

use std::time::Duration;

use serde::Serialize;

/// Summary of a series of measurements. Quartiles by linear interpolation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub count: usize,
    pub min: f64,
    pub lower_quartile: f64,
    pub median: f64,
    pub upper_quartile: f64,
    pub max: f64,
}

impl Spread {
    /// Returns `None` without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values = Vec::from_iter(values);
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let at = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Spread {
            count: values.len(),
            min,
            lower_quartile: at(0.25),
            median: at(0.5),
            upper_quartile: at(0.75),
            max,
        })
    }

    pub fn of_times(times: &[Duration]) -> Option<Spread> {
        Spread::of(times.iter().map(Duration::as_secs_f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_the_values() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert!((spread.median - 2.5).abs() < 1e-9);
        assert!((spread.lower_quartile - 1.75).abs() < 1e-9);
        assert!((spread.upper_quartile - 3.25).abs() < 1e-9);
        assert!((Spread::of([7.0]).unwrap().median - 7.0).abs() < 1e-9);
        assert!(Spread::of([]).is_none());
    }
}
