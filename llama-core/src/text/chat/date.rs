//! The date that a template may ask for. It is passed in, so that a prompt is a function of its arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// A day of the Gregorian calendar; its time of day is midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl Date {
    /// A day, from year 1 to 9999.
    ///
    /// # Errors
    /// [`Error::Parameter`] if there is no such day.
    pub fn new(year: u16, month: u8, day: u8) -> Result<Self> {
        let date = Date { year, month, day };
        let exists =
            (1..=9999).contains(&year) && (1..=12).contains(&month) && day >= 1 && date == Date::from_days(date.days());
        match exists {
            true => Ok(date),
            false => Err(Error::parameter("date", format!("{year}-{month}-{day}"), "is not a day")),
        }
    }

    /// Today in UTC. The one place of this library that looks at a clock.
    pub fn today() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Date::from_days((seconds / 86_400).min(2_932_896) as i64)
    }

    /// Days since 1970-01-01. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so
    /// that the leap day is their last.
    fn days(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    /// The inverse of [`Date::days`], for years 1 to 9999.
    fn from_days(days: i64) -> Self {
        let (era, day) = ((days + 719_468).div_euclid(146_097), (days + 719_468).rem_euclid(146_097));
        let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = (shifted + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Date { year: year as u16, month: month as u8, day: (day_of_year - (153 * shifted + 2) / 5 + 1) as u8 }
    }

    /// Formats as C's `strftime` in the C locale; a directive that is not known stays as it is.
    pub fn strftime(self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => self.directive(&mut chars, &mut out),
                c => out.push(c),
            }
        }
        out
    }

    fn directive(self, chars: &mut std::str::Chars<'_>, out: &mut String) {
        let unpadded = chars.as_str().starts_with('-');
        if unpadded {
            chars.next();
        }
        let number = |n: u16, width: usize| if unpadded { n.to_string() } else { format!("{n:0width$}") };
        let month = MONTHS[usize::from(self.month) - 1];
        let weekday = WEEKDAYS[(self.days() + 3).rem_euclid(7) as usize];
        let text = match chars.next() {
            Some('Y') => number(self.year, 4),
            Some('y') => number(self.year % 100, 2),
            Some('m') => number(self.month.into(), 2),
            Some('d') => number(self.day.into(), 2),
            Some('e') => format!("{:2}", self.day),
            Some('B') => month.into(),
            Some('b' | 'h') => month[..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('j') => number(self.day_of_year(), 3),
            Some('H' | 'M' | 'S') => number(0, 2),
            Some('I') => number(12, 2),
            Some('p') => "AM".into(),
            Some('F') => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
            Some('T') => "00:00:00".into(),
            Some('%') => "%".into(),
            Some(other) => format!("%{}{other}", if unpadded { "-" } else { "" }),
            None => "%".into(),
        };
        out.push_str(&text);
    }

    fn day_of_year(self) -> u16 {
        let first = Date { month: 1, day: 1, ..self };
        (self.days() - first.days() + 1) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_back() {
        for days in -700_000..2_900_000 {
            assert_eq!(Date::from_days(days).days(), days);
        }
        assert_eq!(Date::new(1970, 1, 1).unwrap().days(), 0);
        assert_eq!(Date::new(2000, 3, 1).unwrap().days(), 11_017);
        for (y, m, d) in [(2023, 2, 29), (2024, 13, 1), (0, 1, 1), (2024, 0, 1), (2024, 4, 31), (2024, 1, 0)] {
            assert!(Date::new(y, m, d).is_err());
        }
        assert!(Date::today().year >= 2024);
    }

    #[test]
    fn formats_as_c_does() {
        let date = Date::new(2024, 7, 6).unwrap();
        assert_eq!(
            date.strftime("%d %b %Y, %A %B %-d %j %y%% %H:%M %Q %"),
            "06 Jul 2024, Saturday July 6 188 24% 00:00 %Q %"
        );
    }
}
