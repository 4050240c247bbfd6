;; A WASM agent in the text format, by hand: answers each message with how many it has had. Its one instance keeps the
;; count; a fresh instance, after a restart or a trap, begins anew.
;;
;; Build it:   wasm-tools parse tally.wat -o tally.wasm
;; Run it:     shoal deploy tally.wasm --name tally --kind wasm
(component
  ;; The types of wit/agent.wit that `handle` speaks of.
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

  ;; The one function of the node that this agent calls.
  (import "shoal:agent/log@0.1.0" (instance $log
    (type $level (enum "debug" "info" "warn" "error"))
    (export "level" (type $exported (eq $level)))
    (export "log" (func (param "level" $exported) (param "text" string)))))

  ;; The memory is a module of its own, because lowering `log` needs it before the program is there.
  (core module $memory (memory (export "memory") 2))
  (core instance $m (instantiate $memory))
  (alias core export $m "memory" (core memory $mem))
  (core func $log (canon lower (func $log "log") (memory $mem)))

  (core module $program
    (import "node" "memory" (memory 2))
    (import "node" "log" (func $log (param i32 i32 i32)))
    ;; From here on memory is free. What came with a message is given back when its reply was taken.
    (global $free (mut i32) (i32.const 1024))
    (global $count (mut i32) (i32.const 0))
    (data (i32.const 0) "text/plain")
    (data (i32.const 16) "the first message")

    ;; Room for the message that is passed in: its parts, one after another.
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $free (i32.add (local.get $at) (local.get $size)))
      (block $enough
        (loop $more
          (br_if $enough (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
          (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))
          unreachable))
      (local.get $at))

    ;; Takes where the message is, and returns where the result is: `result<option<body>, string>` from address 64 on.
    (func (export "handle") (param $message i32) (result i32)
      (local $rest i32) (local $at i32)
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (if (i32.eq (global.get $count) (i32.const 1))
        (then (call $log (i32.const 1) (i32.const 16) (i32.const 17))))
      ;; The count in decimal digits, written backwards up to address 1024.
      (local.set $rest (global.get $count))
      (local.set $at (i32.const 1024))
      (loop $digit
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $rest) (i32.const 10))))
        (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
        (br_if $digit (local.get $rest)))
      (i32.store8 (i32.const 64) (i32.const 0))                                     ;; ok
      (i32.store8 (i32.const 68) (i32.const 1))                                     ;; some
      (i32.store (i32.const 72) (i32.const 0))                                      ;; content-type: where,
      (i32.store (i32.const 76) (i32.const 10))                                     ;; and how long
      (i32.store (i32.const 80) (local.get $at))                                    ;; content: where,
      (i32.store (i32.const 84) (i32.sub (i32.const 1024) (local.get $at)))         ;; and how long
      (i32.const 64))

    ;; The reply was taken: all that came with the message is free again.
    (func (export "done") (param i32)
      (global.set $free (i32.const 1024))))
  (core instance $p (instantiate $program
    (with "node" (instance (export "memory" (memory $mem)) (export "log" (func $log))))))

  (func (export "handle") (param "message" $message) (result (result (option $body) (error string)))
    (canon lift
      (core func $p "handle")
      (memory $mem)
      (realloc (core func $p "realloc"))
      (post-return (core func $p "done")))))
