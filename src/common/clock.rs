//! The offset of this machine's clock, measured by the `Date` header of a service's answers.

use std::sync::Mutex;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// RFC 9110's preferred date format, always in GMT: `Sun, 06 Nov 1994 08:49:37 GMT`.
const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// The offset as of the last answer that had a date.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Option<Duration>>);

impl Clock {
    /// Compares an answer's `Date` header with the local time of its arrival.
    pub fn note(&self, date: Option<&str>, arrived: OffsetDateTime) {
        let Some(date) = date.and_then(|date| PrimitiveDateTime::parse(date, HTTP_DATE).ok())
        else {
            return;
        };
        let offset = arrived - date.assume_utc();
        // The header has whole seconds, so the fraction of the local time has no meaning.
        let offset = Duration::seconds(offset.as_seconds_f64().floor() as i64);
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(offset);
    }

    /// Returns how far this machine's clock is ahead of the service's, in whole seconds.
    pub fn offset(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const ARRIVED: OffsetDateTime = datetime!(2026-11-20 10:00:00.7 UTC);

    #[test]
    fn ahead_is_positive_and_behind_is_negative() {
        let clock = Clock::default();
        clock.note(Some("Fri, 20 Nov 2026 09:00:00 GMT"), ARRIVED);
        assert_eq!(clock.offset(), Some(Duration::HOUR));
        clock.note(Some("Fri, 20 Nov 2026 11:00:00 GMT"), ARRIVED);
        assert_eq!(clock.offset(), Some(-Duration::HOUR));
        clock.note(Some("Fri, 20 Nov 2026 10:00:00 GMT"), ARRIVED);
        assert_eq!(clock.offset(), Some(Duration::ZERO));
    }

    #[test]
    fn an_answer_without_a_date_says_nothing() {
        let clock = Clock::default();
        clock.note(None, ARRIVED);
        clock.note(Some("yesterday"), ARRIVED);
        assert_eq!(clock.offset(), None);
        clock.note(Some("Fri, 20 Nov 2026 09:00:00 GMT"), ARRIVED);
        clock.note(None, ARRIVED);
        assert_eq!(clock.offset(), Some(Duration::HOUR), "kept from the last answer with a date");
    }
}
