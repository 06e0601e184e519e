//! The table of keys. One declaration, the `settings!` of [`super::settings`], defines the structs that the rest of
//! skep uses and [`KEYS`](super::settings::KEYS), which the readers of files, variables and flags, `skep config` and
//! the test of `docs/configuration.md` use.

use serde_json::Value;

use super::raw::{Problem, Raw};
use crate::common::labels::Labels;

/// One key of the settings `S`: its name, its meaning, and how its value is written and read.
#[derive(Debug)]
pub struct Key<S> {
    /// With its section, such as `boot.deadline`.
    pub name: &'static str,
    /// `None` for an optional key.
    pub default: Option<&'static str>,
    /// A variable of another program that replaces the default, such as `DOCKER_HOST`.
    pub stand_in: Option<&'static str>,
    /// Its meaning; the doc comment of its field.
    pub doc: &'static str,
    pub(super) set: fn(&mut S, &Raw) -> Result<(), Problem>,
    pub(super) show: fn(&S) -> Value,
}

impl<S> Key<S> {
    /// Returns the variable that sets it, such as `SKEP_BOOT_DEADLINE`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("SKEP_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Returns its section, such as `boot`; `None` for a key without a section.
    #[must_use]
    pub fn section(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(section, _)| section)
    }

    /// Returns its value in `settings`; `null` if an optional key is not set.
    #[must_use]
    pub fn value(&self, settings: &S) -> Value {
        (self.show)(settings)
    }
}

/// Accepts the next value of a setting.
pub(super) trait Accept<T> {
    fn accept(&mut self, said: T);
}

impl<T> Accept<T> for T {
    fn accept(&mut self, said: T) {
        *self = said;
    }
}

impl<T> Accept<T> for Option<T> {
    fn accept(&mut self, said: T) {
        *self = Some(said);
    }
}

/// Merges labels: a later source wins for each key.
impl Accept<Vec<(String, String)>> for Labels {
    fn accept(&mut self, said: Vec<(String, String)>) {
        self.extend(said);
    }
}

/// `name: Type = parser("default") or "VARIABLE"`. An optional key has an empty `parser()`.
macro_rules! settings {
    (
        $(#[doc = $root_doc:literal])+
        $root:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty =
                    $parse:ident($($default:literal)?) $(or $stand_in:literal)?,
            )+
        }
        $(
            $(#[doc = $section_doc:literal])+
            $section:ident: $struct:ident {
                $(
                    $(#[doc = $inner_doc:literal])+
                    $inner:ident: $inner_type:ty = $inner_parse:ident($($inner_default:literal)?)
                        $(or $inner_stand_in:literal)?,
                )+
            }
        )+
    ) => {
        $(#[doc = $root_doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $root {
            $($(#[doc = $doc])+ pub $field: $type,)+
            $($(#[doc = $section_doc])+ pub $section: $struct,)+
        }

        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $struct {
                $($(#[doc = $inner_doc])+ pub $inner: $inner_type,)+
            }
        )+

        /// The settings of an empty configuration.
        impl Default for $root {
            fn default() -> Self {
                Self {
                    $($field: default_value!($parse($($default)?)),)+
                    $($section: $struct {
                        $($inner: default_value!($inner_parse($($inner_default)?)),)+
                    },)+
                }
            }
        }

        /// One key of the settings.
        pub type Key = super::keys::Key<$root>;

        /// Every key, section by section.
        pub static KEYS: &[Key] = &[
            $(Key {
                name: stringify!($field),
                default: first!($($default)?),
                stand_in: first!($($stand_in)?),
                doc: concat!($($doc),+),
                set: |settings, raw| {
                    settings.$field.accept(parse::$parse(raw)?);
                    Ok(())
                },
                show: |settings| settings.$field.show(),
            },)+
            $($(Key {
                name: concat!(stringify!($section), ".", stringify!($inner)),
                default: first!($($inner_default)?),
                stand_in: first!($($inner_stand_in)?),
                doc: concat!($($inner_doc),+),
                set: |settings, raw| {
                    settings.$section.$inner.accept(parse::$inner_parse(raw)?);
                    Ok(())
                },
                show: |settings| settings.$section.$inner.show(),
            },)+)+
        ];

        /// Every section and its meaning.
        #[cfg(test)]
        pub(super) static SECTIONS: &[(&str, &str)] =
            &[$((stringify!($section), concat!($($section_doc),+)),)+];
    };
}

macro_rules! first {
    () => {
        None
    };
    ($value:literal) => {
        Some($value)
    };
}

macro_rules! default_value {
    ($parse:ident()) => {
        Default::default()
    };
    ($parse:ident($default:literal)) => {
        parse::$parse(&Raw::bare($default)).expect("a test reads every default").into()
    };
}

pub(super) use {default_value, first, settings};
