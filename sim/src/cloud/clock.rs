//! The cloud's clock: system time plus an offset that a test can set, and the date formats of the services.
//!
//! Timers use elapsed time, which the offset does not change: moving the clock must not make every hook time out.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;
use tokio::time::Instant;

const ISO_MILLIS: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const ISO_SECONDS: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const AMZ_DATE: &[FormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
const HTTP_DATE: &[FormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
const MAINTENANCE_DATE: &[FormatItem<'_>] = format_description!(
    "[day padding:none] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    offset_millis: AtomicI64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), offset_millis: AtomicI64::new(0) }
    }

    /// Returns the time since the cloud was created; timers and the pure cores use this time.
    pub(super) fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Returns the instant of a deadline in elapsed time.
    pub(super) fn instant(&self, deadline: Duration) -> Instant {
        self.origin + deadline
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        let offset = time::Duration::milliseconds(self.offset_millis.load(Ordering::Relaxed));
        OffsetDateTime::now_utc() + offset
    }

    /// Returns the date that this cloud shows for a moment in elapsed time.
    pub(super) fn date(&self, moment: Duration) -> OffsetDateTime {
        self.now() - self.elapsed() + moment
    }

    pub(super) fn set_offset(&self, offset: time::Duration) {
        let millis = i64::try_from(offset.whole_milliseconds()).unwrap_or(i64::MAX);
        self.offset_millis.store(millis, Ordering::Relaxed);
    }
}

fn format(date: OffsetDateTime, format: &[FormatItem<'_>]) -> String {
    // Cannot fail: the formats above name only fields that every date has.
    date.format(format).unwrap_or_default()
}

/// `2026-11-20T23:07:00.123Z`, as Query services answer.
pub(super) fn iso_millis(date: OffsetDateTime) -> String {
    format(date, ISO_MILLIS)
}

/// `2026-11-20T23:07:00Z`, as the metadata service answers.
pub(super) fn iso_seconds(date: OffsetDateTime) -> String {
    format(date, ISO_SECONDS)
}

/// `20261120T230700Z`, as signatures are dated.
pub(super) fn amz_date(date: OffsetDateTime) -> String {
    format(date, AMZ_DATE)
}

/// `Fri, 20 Nov 2026 23:07:00 GMT`, for the `Date` header.
pub(super) fn http_date(date: OffsetDateTime) -> String {
    format(date, HTTP_DATE)
}

/// `21 Jan 2019 09:00:43 GMT`, as scheduled maintenance is dated.
pub(super) fn maintenance_date(date: OffsetDateTime) -> String {
    format(date, MAINTENANCE_DATE)
}

pub(super) fn parse_amz_date(text: &str) -> Option<OffsetDateTime> {
    time::PrimitiveDateTime::parse(text, AMZ_DATE).ok().map(time::PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn dates_are_written_as_the_services_write_them() {
        let date = datetime!(2026-11-02 03:04:05.678 UTC);
        assert_eq!(iso_millis(date), "2026-11-02T03:04:05.678Z");
        assert_eq!(iso_seconds(date), "2026-11-02T03:04:05Z");
        assert_eq!(http_date(date), "Mon, 02 Nov 2026 03:04:05 GMT");
        assert_eq!(maintenance_date(date), "2 Nov 2026 03:04:05 GMT");
        assert_eq!(amz_date(date), "20261102T030405Z");
        assert_eq!(parse_amz_date("20261102T030405Z"), Some(datetime!(2026-11-02 03:04:05 UTC)));
        assert_eq!(parse_amz_date("yesterday"), None);
    }

    #[test]
    fn the_offset_moves_dates_and_leaves_timers_alone() {
        let clock = Clock::new();
        let before = clock.elapsed();
        clock.set_offset(time::Duration::hours(2));
        assert!(clock.now() > OffsetDateTime::now_utc() + time::Duration::minutes(119));
        assert!(clock.elapsed() < before + Duration::from_secs(60));
    }
}
