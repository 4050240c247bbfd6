// A WASM agent in C: keeps notes in the mesh's shared state, and passes messages on. docs/wasm-agents.md tells how to
// build it. It may do what its deploy grants:
//
//     shoal deploy notes.wasm --name notes --kind wasm --grant-state notes/ --grant-address upper
//
// A message is a command: "put KEY TEXT", "get KEY", "delete KEY", "ask AGENT TEXT", "tell AGENT TEXT",
// "promise AGENT TEXT" (delivered at least once), "time", "dice".
#include "agent.h"

#include <stdlib.h>
#include <string.h>

// --- replies ---

static void fill(agent_body_t *body, const char *text, size_t length) {
    agent_string_dup(&body->content_type, "text/plain");
    body->content.ptr = malloc(length ? length : 1);
    memcpy(body->content.ptr, text, length);
    body->content.len = length;
}

static bool say(agent_option_body_t *reply, const char *text) {
    reply->is_some = true;
    fill(&reply->val, text, strlen(text));
    return true;
}

// What the node would not do, told to whoever asked.
static bool refuse(agent_string_t *error, const shoal_agent_types_failure_t *failure) {
    size_t length = failure->code.len + 2 + failure->reason.len;
    error->ptr = malloc(length);
    error->len = length;
    memcpy(error->ptr, failure->code.ptr, failure->code.len);
    memcpy(error->ptr + failure->code.len, ": ", 2);
    memcpy(error->ptr + failure->code.len + 2, failure->reason.ptr, failure->reason.len);
    return false;
}

static bool complain(agent_string_t *error, const char *text) {
    agent_string_dup(error, text);
    return false;
}

// --- commands ---

static agent_string_t string_of(char *text) {
    return (agent_string_t){.ptr = (uint8_t *)text, .len = strlen(text)};
}

static bool on_written(const shoal_agent_state_written_t *written, agent_option_body_t *reply) {
    switch (written->tag) {
    case SHOAL_AGENT_STATE_WRITTEN_ABSENT:
        return say(reply, "there is none");
    case SHOAL_AGENT_STATE_WRITTEN_QUEUED:
        return say(reply, "kept until the node is among a majority");
    default:
        return say(reply, "done");
    }
}

static bool get(char *key, agent_option_body_t *reply, agent_string_t *error) {
    agent_string_t name = string_of(key);
    agent_option_list_u8_t value;
    shoal_agent_types_failure_t failure;
    if (!shoal_agent_state_get(&name, &value, &failure)) return refuse(error, &failure);
    if (!value.is_some) return say(reply, "there is none");
    reply->is_some = true;
    fill(&reply->val, (const char *)value.val.ptr, value.val.len);
    return true;
}

static bool put(char *key, char *text, agent_option_body_t *reply, agent_string_t *error) {
    agent_string_t name = string_of(key);
    agent_list_u8_t value = {.ptr = (uint8_t *)text, .len = strlen(text)};
    shoal_agent_state_written_t written;
    shoal_agent_types_failure_t failure;
    if (!shoal_agent_state_put(&name, &value, &written, &failure)) return refuse(error, &failure);
    return on_written(&written, reply);
}

static bool delete(char *key, agent_option_body_t *reply, agent_string_t *error) {
    agent_string_t name = string_of(key);
    shoal_agent_state_written_t written;
    shoal_agent_types_failure_t failure;
    if (!shoal_agent_state_delete(&name, &written, &failure)) return refuse(error, &failure);
    return on_written(&written, reply);
}

static shoal_agent_messaging_draft_t draft(char *to, char *text) {
    shoal_agent_messaging_draft_t draft = {0};
    draft.to = string_of(to);
    fill(&draft.body, text, strlen(text));
    return draft;
}

static bool ask(char *to, char *text, agent_option_body_t *reply, agent_string_t *error) {
    shoal_agent_messaging_draft_t question = draft(to, text);
    shoal_agent_messaging_answer_t answer;
    shoal_agent_types_failure_t failure;
    if (!shoal_agent_messaging_ask(&question, &answer, &failure)) return refuse(error, &failure);
    reply->is_some = true;
    fill(&reply->val, (const char *)answer.body.content.ptr, answer.body.content.len);
    return true;
}

static bool tell(char *to, char *text, agent_option_body_t *reply, agent_string_t *error) {
    shoal_agent_messaging_draft_t message = draft(to, text);
    shoal_agent_types_failure_t failure;
    if (!shoal_agent_messaging_send(&message, &failure)) return refuse(error, &failure);
    return say(reply, "sent");
}

static bool promise(char *to, char *text, agent_option_body_t *reply, agent_string_t *error) {
    shoal_agent_messaging_draft_t message = draft(to, text);
    message.guarantee.is_some = true;
    message.guarantee.val = SHOAL_AGENT_MESSAGING_GUARANTEE_AT_LEAST_ONCE;
    shoal_agent_types_failure_t failure;
    if (!shoal_agent_messaging_send(&message, &failure)) return refuse(error, &failure);
    return say(reply, "promised");
}

static bool tell_time(agent_option_body_t *reply) {
    char digits[21] = {0};
    size_t at = sizeof digits - 1;
    uint64_t begun = shoal_agent_clock_monotonic_ns();
    uint64_t unix_ms = shoal_agent_clock_unix_ms();
    if (shoal_agent_clock_monotonic_ns() < begun) return say(reply, "time went back");
    for (; unix_ms > 0; unix_ms /= 10) digits[--at] = '0' + unix_ms % 10;
    return say(reply, digits + at);
}

static bool roll_dice(agent_option_body_t *reply) {
    char text[2] = {0};
    agent_list_u8_t bytes;
    shoal_agent_random_bytes(1, &bytes);
    text[0] = '1' + bytes.ptr[0] % 6;
    return say(reply, text);
}

// The next word of a text, cut off, or "" at its end.
static char *next_word(char **text) {
    char *word = *text;
    char *space = strchr(word, ' ');
    if (!space) {
        *text = word + strlen(word);
        return word;
    }
    *space = 0;
    *text = space + 1;
    return word;
}

bool exports_agent_handle(agent_message_t *message, agent_option_body_t *reply, agent_string_t *error) {
    char *text = malloc(message->content.len + 1);
    memcpy(text, message->content.ptr, message->content.len);
    text[message->content.len] = 0;

    agent_string_t line = string_of(text);
    shoal_agent_log_log(SHOAL_AGENT_LOG_LEVEL_INFO, &line);

    char *rest = text;
    char *command = next_word(&rest);
    bool done;
    if (!strcmp(command, "get")) {
        done = get(rest, reply, error);
    } else if (!strcmp(command, "delete")) {
        done = delete(rest, reply, error);
    } else if (!strcmp(command, "put")) {
        char *key = next_word(&rest);
        done = put(key, rest, reply, error);
    } else if (!strcmp(command, "ask")) {
        char *to = next_word(&rest);
        done = ask(to, rest, reply, error);
    } else if (!strcmp(command, "tell")) {
        char *to = next_word(&rest);
        done = tell(to, rest, reply, error);
    } else if (!strcmp(command, "promise")) {
        char *to = next_word(&rest);
        done = promise(to, rest, reply, error);
    } else if (!strcmp(command, "time")) {
        done = tell_time(reply);
    } else if (!strcmp(command, "dice")) {
        done = roll_dice(reply);
    } else {
        done = complain(error, "commands are put, get, delete, ask, tell, promise, time and dice");
    }
    free(text);
    agent_message_free(message);
    return done;
}
