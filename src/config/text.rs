//! Values that are written as text.

/// For a value that is written as text: the conversions that serde asks for (`try_from = "String", into = "String"`), by its
/// `FromStr` and its `Display`. The latter is the text itself, where a value keeps it and names the field.
macro_rules! by_text {
    ($name:ty) => {
        impl TryFrom<String> for $name {
            type Error = $crate::config::ValueError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
    ($name:ty, $field:tt) => {
        by_text!($name);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.$field)
            }
        }
    };
}

pub(super) use by_text;
