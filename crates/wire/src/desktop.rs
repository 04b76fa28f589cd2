//! Requests to the desktop in a guest, and their answers: the JSON shapes are those of vmette 0.11.

use serde::{Deserialize, Serialize};

use crate::root::RootName;

/// A request to the desktop of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesktopRequest {
    /// The root.
    pub root: RootName,
    /// The request.
    pub action: Action,
}

/// A request to the desktop in the guest. Coordinates are pixels, the origin is the top left corner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are the coordinates, texts and times their names say")]
pub enum Action {
    /// The whole screen as PNG, in the payload.
    Screenshot,
    /// The pointer's position.
    CursorPosition,
    /// Moves the pointer.
    MouseMove { x: i32, y: i32 },
    /// Clicks at the pointer's position.
    LeftClick,
    /// Clicks at the pointer's position.
    RightClick,
    /// Clicks at the pointer's position.
    MiddleClick,
    /// Two left clicks.
    DoubleClick,
    /// Presses at the pointer's position, moves to the target, releases.
    LeftClickDrag { x: i32, y: i32 },
    /// Types text.
    Type { text: String },
    /// Presses a chord such as `ctrl+shift+t`.
    Key { keys: String },
    /// Turns the wheel at a position.
    Scroll { x: i32, y: i32, direction: ScrollDirection, amount: i32 },
    /// Answers after that many milliseconds.
    Wait { ms: u64 },
    /// Starts a shell command and does not wait for it.
    Exec { command: String },
    /// Runs a shell command; its merged output is the payload, its status the answer's `exit_code`.
    ExecCapture {
        command: String,
        /// In milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Opens a URL in the image's browser.
    Navigate { url: String },
    /// Puts text into the clipboard.
    SetClipboard { text: String },
    /// The clipboard's text, in the payload.
    GetClipboard,
}

impl Action {
    /// The name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Screenshot => "screenshot",
            Self::CursorPosition => "cursor_position",
            Self::MouseMove { .. } => "mouse_move",
            Self::LeftClick => "left_click",
            Self::RightClick => "right_click",
            Self::MiddleClick => "middle_click",
            Self::DoubleClick => "double_click",
            Self::LeftClickDrag { .. } => "left_click_drag",
            Self::Type { .. } => "type",
            Self::Key { .. } => "key",
            Self::Scroll { .. } => "scroll",
            Self::Wait { .. } => "wait",
            Self::Exec { .. } => "exec",
            Self::ExecCapture { .. } => "exec_capture",
            Self::Navigate { .. } => "navigate",
            Self::SetClipboard { .. } => "set_clipboard",
            Self::GetClipboard => "get_clipboard",
        }
    }
}

/// Direction in which the wheel turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum ScrollDirection {
    Up,
    Down,
    Left,
    Right,
}

/// The answer to an [`Action`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHeader {
    /// The request was carried out.
    pub ok: bool,
    /// The reason of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Column in which the pointer came to rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<i32>,
    /// Row in which the pointer came to rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<i32>,
    /// The command's exit status; absent when it did not exit by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Length of the answer's payload, in bytes.
    #[serde(default)]
    pub payload_len: u32,
}

impl ResponseHeader {
    /// A plain success.
    #[must_use]
    pub fn ok() -> Self {
        Self { ok: true, ..Self::default() }
    }

    /// A refusal.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self { error: Some(message.into()), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json<T: Serialize>(value: &T) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn shapes_are_those_of_the_original() {
        assert_eq!(json(&Action::Screenshot), r#"{"action":"screenshot"}"#);
        assert_eq!(json(&Action::MouseMove { x: 10, y: 20 }), r#"{"action":"mouse_move","x":10,"y":20}"#);
        assert_eq!(
            json(&Action::LeftClickDrag { x: 640, y: 400 }),
            r#"{"action":"left_click_drag","x":640,"y":400}"#
        );
        assert_eq!(
            json(&Action::SetClipboard { text: "hi".into() }),
            r#"{"action":"set_clipboard","text":"hi"}"#
        );
        let capture = |timeout_ms| Action::ExecCapture { command: "ls".into(), timeout_ms };
        assert_eq!(json(&capture(None)), r#"{"action":"exec_capture","command":"ls"}"#);
        assert_eq!(
            json(&capture(Some(2000))),
            r#"{"action":"exec_capture","command":"ls","timeout_ms":2000}"#
        );
        assert_eq!(json(&ScrollDirection::Up), r#""up""#);
        assert_eq!(json(&ResponseHeader::ok()), r#"{"ok":true,"payload_len":0}"#);
    }

    #[test]
    fn unknown_fields_and_actions_are_refused() {
        assert!(serde_json::from_str::<Action>(r#"{"action":"mouse_move","x":1,"y":2,"z":3}"#).is_err());
        assert!(serde_json::from_str::<Action>(r#"{"action":"fly"}"#).is_err());
    }

    #[test]
    fn a_null_exit_code_is_no_exit_code() {
        let header: ResponseHeader = serde_json::from_str(r#"{"ok":true,"exit_code":null}"#).unwrap();
        assert_eq!(header, ResponseHeader::ok());
    }

    #[test]
    fn every_name_is_the_tag_on_the_wire() {
        for text in [
            r#"{"action":"cursor_position"}"#,
            r#"{"action":"type","text":""}"#,
            r#"{"action":"key","keys":""}"#,
            r#"{"action":"scroll","x":0,"y":0,"direction":"left","amount":1}"#,
            r#"{"action":"wait","ms":1}"#,
            r#"{"action":"exec","command":""}"#,
            r#"{"action":"navigate","url":""}"#,
            r#"{"action":"get_clipboard"}"#,
            r#"{"action":"double_click"}"#,
        ] {
            let action: Action = serde_json::from_str(text).unwrap();
            assert!(text.contains(&format!("\"{}\"", action.name())));
            assert_eq!(json(&action), text);
        }
    }
}
