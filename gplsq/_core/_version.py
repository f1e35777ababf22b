"""The version of the library, one for all floors."""

VERSION = "0.1.0"
