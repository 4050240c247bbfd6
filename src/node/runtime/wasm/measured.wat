;; The agent whose start is measured: it answers each message with two letters.
(component
  (import "shoal:agent/types@0.1.0" (instance $types
    (type $message (record
      (field "id" string)
      (field "sender" string)
      (field "receiver" string)
      (field "performative" string)
      (field "conversation" (option string))
      (field "in-reply-to" (option string))
      (field "content-type" string)
      (field "content" (list u8))
      (field "wants-answer" bool)
      (field "deadline-ms" u64)))
    (export "message" (type (eq $message)))
    (type $body (record (field "content-type" string) (field "content" (list u8))))
    (export "body" (type (eq $body)))))
  (alias export $types "message" (type $message))
  (alias export $types "body" (type $body))

  (core module $program
    (memory (export "memory") 1)
    ;; `result<option<body>, string>` at address 64: ok, some, the texts at 0 and 16.
    (data (i32.const 0) "text/plain")
    (data (i32.const 16) "ok")
    (data (i32.const 64) "\00\00\00\00\01\00\00\00\00\00\00\00\0a\00\00\00\10\00\00\00\02\00\00\00")
    ;; An instance has one message, of a few hundred bytes: nothing is ever given back.
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $free (i32.add (local.get $at) (local.get $size)))
      (local.get $at))
    (func (export "handle") (param $message i32) (result i32) (i32.const 64)))
  (core instance $p (instantiate $program))

  (func (export "handle") (param "message" $message) (result (result (option $body) (error string)))
    (canon lift
      (core func $p "handle")
      (memory (core memory $p "memory"))
      (realloc (core func $p "realloc")))))
