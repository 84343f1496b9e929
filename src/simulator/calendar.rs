//! How does the vendor write a moment? In China's time (UTC+8, an assumption: its dates bear no
//! zone), in two formats.

pub(super) const DAY: i64 = 86_400;
const ZONE: i64 = 8 * 3_600;

/// The seconds of `periods` periods.
pub(super) fn days(period_days: u32, periods: u32) -> i64 {
    DAY * i64::from(period_days.saturating_mul(periods))
}

/// `20190302172719`, as orders have it.
pub(super) fn digits(unix: i64) -> String {
    let (year, month, day, hour, minute, second) = civil(unix);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// `2019-03-02 17:27:19`, as a renewal has it.
pub(super) fn text(unix: i64) -> String {
    let (year, month, day, hour, minute, second) = civil(unix);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Howard Hinnant's `civil_from_days`: years that begin in March have their leap day at the end.
fn civil(unix: i64) -> (i64, i64, i64, i64, i64, i64) {
    let local = unix.saturating_add(ZONE);
    let (days, time) = (local.div_euclid(DAY), local.rem_euclid(DAY));
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day, time / 3_600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_the_time_of_china() {
        assert_eq!(digits(1_551_518_839), "20190302172719");
        assert_eq!(text(1_551_585_048), "2019-03-03 11:50:48");
        assert_eq!(digits(0), "19700101080000");
        assert_eq!(text(1_709_164_800), "2024-02-29 08:00:00");
        assert_eq!(text(1_735_660_799), "2024-12-31 23:59:59");
    }
}
