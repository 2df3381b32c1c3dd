/* The endpoints. Each returns false when the connection is to be dropped. */
#define _GNU_SOURCE
#include "testapp.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUCKETS = 65536, ID_SIZE = 65, MAX_IDS = 1000000 };

static _Atomic int health_forced; /* 0 by the environment, 1 good, -1 bad */

static bool is(const struct request *request, const char *method, const char *path) {
    bool same_method = strcmp(request->method, method) == 0 || (request->is_head && strcmp(method, "GET") == 0);
    return same_method && strcmp(request->path, path) == 0;
}

bool query_value(const struct request *request, const char *name, char *out, size_t size) {
    size_t name_size = strlen(name);
    for (const char *at = request->query; at != NULL && *at != '\0';) {
        size_t part = strcspn(at, "&");
        if (strncmp(at, name, name_size) == 0 && at[name_size] == '=') {
            size_t value = part - name_size - 1;
            if (value >= size) return false;
            memcpy(out, at + name_size + 1, value);
            out[value] = '\0';
            return true;
        }
        at += part + (at[part] == '&');
    }
    return false;
}

static long query_number(const struct request *request, const char *name, long fallback, long least, long most) {
    char text[16], *end = NULL;
    if (!query_value(request, name, text, sizeof text)) return fallback;
    long number = strtol(text, &end, 10);
    if (end == text || *end != '\0') return fallback;
    return number < least ? least : number > most ? most : number;
}

static bool is_healthy(void) {
    int forced = atomic_load(&health_forced);
    if (forced != 0) return forced > 0;
    if (settings.unhealthy) return false;
    if (settings.healthy_after_ms >= 0 && now_ms() < settings.healthy_after_ms) return false;
    if (settings.flap_ms > 0 && now_ms() / settings.flap_ms % 2 == 1) return false;
    return settings.unhealthy_after_ms < 0 || now_ms() < settings.unhealthy_after_ms;
}

static bool serve_page(struct conn *conn, const struct request *request) {
    char body[512];
    snprintf(body, sizeof body, "version %s\nhost %s\n", settings.version, settings.hostname);
    return reply(conn, request, 200, "", body);
}

static bool serve_health(struct conn *conn, const struct request *request) {
    return is_healthy() ? reply(conn, request, 200, "", "ok\n") : reply(conn, request, 500, "", "unhealthy\n");
}

static bool force_health(struct conn *conn, const struct request *request, int forced) {
    atomic_store(&health_forced, forced);
    return reply(conn, request, 200, "", forced > 0 ? "healthy from now on\n" : "unhealthy from now on\n");
}

static bool serve_slow(struct conn *conn, const struct request *request) {
    long pause_ms = query_number(request, "ms", 3000, 0, 600000);
    char body[64];
    sleep_until(now_ms() + pause_ms);
    snprintf(body, sizeof body, "slept %ld ms\n", pause_ms);
    return reply(conn, request, 200, "", body);
}

static bool send_line(struct conn *conn, const struct request *request, const char *line) {
    char chunk[96];
    int size = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", strlen(line), line);
    return request->is_http10 ? send_all(conn->fd, line, strlen(line)) : send_all(conn->fd, chunk, (size_t)size);
}

static bool serve_stream(struct conn *conn, const struct request *request) {
    long total_ms = query_number(request, "ms", 6000, 0, 600000);
    long every_ms = query_number(request, "every", 200, 1, 60000);
    long begun = now_ms();
    char line[64];
    const char *coding = request->is_http10 ? "" : "Transfer-Encoding: chunked\r\n";
    char headers[128];
    snprintf(headers, sizeof headers, "Content-Type: text/plain; charset=utf-8\r\n%s", coding);
    if (!send_head(conn, 200, headers)) return false;
    if (request->is_head) return true;
    for (long tick = 1; tick * every_ms <= total_ms; tick++) {
        sleep_until(begun + tick * every_ms);
        snprintf(line, sizeof line, "tick %ld\n", tick);
        if (!send_line(conn, request, line)) return false;
    }
    if (!send_line(conn, request, "end\n")) return false;
    return request->is_http10 || send_all(conn->fd, "0\r\n\r\n", 5);
}

/* The value of the cookie `app`, or false. */
static bool app_cookie(const struct request *request, char *out, size_t size) {
    for (const char *at = request->cookie; at != NULL && *at != '\0';) {
        at += strspn(at, " ;");
        size_t part = strcspn(at, ";");
        if (strncmp(at, "app=", 4) == 0 && part - 4 < size) {
            memcpy(out, at + 4, part - 4);
            out[part - 4] = '\0';
            return true;
        }
        at += part;
    }
    return false;
}

static bool serve_cookie(struct conn *conn, const struct request *request) {
    char value[ID_SIZE], headers[128] = "", body[96];
    unsigned long drawn = 0;
    if (!app_cookie(request, value, sizeof value)) {
        if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) return false;
        snprintf(value, sizeof value, "%016lx", drawn);
        snprintf(headers, sizeof headers, "Set-Cookie: app=%s; Path=/; HttpOnly\r\n", value);
    }
    snprintf(body, sizeof body, "app=%s\n", value);
    return reply(conn, request, 200, headers, body);
}

struct entry {
    struct entry *next;
    unsigned long executed;
    char id[];
};

static pthread_mutex_t count_lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry *buckets[BUCKETS];
static unsigned long ids, executions, repeated;

static struct entry *find_entry(const char *id, bool create) {
    unsigned hash = 2166136261u;
    for (const char *at = id; *at != '\0'; at++) hash = (hash ^ (unsigned char)*at) * 16777619u;
    struct entry **bucket = &buckets[hash % BUCKETS], *entry = *bucket;
    while (entry != NULL && strcmp(entry->id, id) != 0) entry = entry->next;
    if (entry != NULL || !create || ids >= MAX_IDS) return entry;
    if ((entry = calloc(1, sizeof *entry + strlen(id) + 1)) == NULL) return NULL;
    strcpy(entry->id, id);
    entry->next = *bucket;
    *bucket = entry;
    ids++;
    return entry;
}

/* POST executes and counts; GET tells how often; GET without an id tells the sums. */
static bool serve_count(struct conn *conn, const struct request *request, bool execute) {
    char id[ID_SIZE], body[128];
    bool has_id = query_value(request, "id", id, sizeof id) && *id != '\0';
    if (execute && !has_id) return reply(conn, request, 400, "", "id=<1 to 64 characters> is needed\n");
    pthread_mutex_lock(&count_lock);
    struct entry *entry = has_id ? find_entry(id, execute) : NULL;
    if (execute && entry != NULL) {
        executions++;
        if (++entry->executed > 1) repeated++;
    }
    unsigned long executed = entry != NULL ? entry->executed : 0;
    if (has_id) snprintf(body, sizeof body, "%lu\n", executed);
    else snprintf(body, sizeof body, "ids=%lu executed=%lu repeated=%lu\n", ids, executions, repeated);
    pthread_mutex_unlock(&count_lock);
    if (execute && executed == 0) return reply(conn, request, 503, "", "no memory for another id\n");
    return reply(conn, request, 200, "", body);
}

static bool serve_exit(struct conn *conn, const struct request *request) {
    int code = (int)query_number(request, "code", 1, 0, 255);
    conn->keep = false;
    reply(conn, request, 200, "", "exiting\n");
    shutdown(conn->fd, SHUT_RDWR);
    log_line("exiting by request code=%d", code);
    _exit(code);
}

bool route(struct conn *conn, const struct request *request) {
    if (is(request, "GET", "/") || is(request, "POST", "/")) return serve_page(conn, request);
    if (is(request, "GET", "/health")) return serve_health(conn, request);
    if (is(request, "POST", "/health/fail")) return force_health(conn, request, -1);
    if (is(request, "POST", "/health/ok")) return force_health(conn, request, 1);
    if (is(request, "GET", "/slow") || is(request, "POST", "/slow")) return serve_slow(conn, request);
    if (is(request, "GET", "/stream")) return serve_stream(conn, request);
    if (is(request, "GET", "/ws")) return serve_websocket(conn, request);
    if (is(request, "GET", "/cookie")) return serve_cookie(conn, request);
    if (is(request, "GET", "/fail"))
        return reply(conn, request, (int)query_number(request, "status", 500, 200, 599), "", "failing as asked\n");
    if (is(request, "GET", "/count")) return serve_count(conn, request, false);
    if (is(request, "POST", "/count")) return serve_count(conn, request, true);
    if (is(request, "GET", "/exit") || is(request, "POST", "/exit")) return serve_exit(conn, request);
    return reply(conn, request, 404, "", "not found\n");
}
