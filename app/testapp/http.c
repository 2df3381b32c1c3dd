/* One connection: read a request head, skip its body, have it answered, and again while it is kept alive. */
#define _GNU_SOURCE
#include "testapp.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FIRST_REQUEST_GRACE_MS = 500, LINGER_MS = 300 };

static const char *reason_of(int status) {
    switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 411: return "Length Required";
    case 426: return "Upgrade Required";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    default: return "Status";
    }
}

bool send_all(int fd, const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        at += sent;
        size -= (size_t)sent;
    }
    return true;
}

static int format_head(char *out, size_t size, const struct conn *conn, int status, const char *headers) {
    const char *connection = status == 101 ? "" : conn->keep ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
    return snprintf(out, size, "HTTP/1.1 %d %s\r\nX-Version: %s\r\nCache-Control: no-store\r\n%s%s\r\n", status,
                    reason_of(status), settings.version, connection, headers);
}

bool send_head(struct conn *conn, int status, const char *headers) {
    char head[2048];
    int size = format_head(head, sizeof head, conn, status, headers);
    return size > 0 && size < (int)sizeof head && send_all(conn->fd, head, (size_t)size);
}

bool reply(struct conn *conn, const struct request *request, int status, const char *headers, const char *body) {
    char text[6144], fields[1536];
    size_t body_size = strlen(body);
    snprintf(fields, sizeof fields, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n%s", body_size,
             headers);
    int size = format_head(text, sizeof text, conn, status, fields);
    bool has_body = request == NULL || !request->is_head;
    if (size < 0 || (size_t)size + body_size >= sizeof text) return false;
    memcpy(text + size, body, body_size); /* head and body in one packet */
    return send_all(conn->fd, text, (size_t)size + (has_body ? body_size : 0));
}

/*
 * Read more bytes. Returns their number, 0 when the other side has closed or the buffer is full, -1 on an error,
 * when the time is over or, if `stops`, when the server is to stop.
 */
int fill(struct conn *conn, long timeout_ms, bool stops) {
    struct pollfd watched[] = {{.fd = conn->fd, .events = POLLIN}, {.fd = stops ? stop_fd : -1, .events = POLLIN}};
    long deadline = now_ms() + timeout_ms;
    for (;;) {
        long left = deadline - now_ms();
        int ready = poll(watched, 2, left > INT_MAX ? INT_MAX : left > 0 ? (int)left : 0);
        if (ready < 0 && errno == EINTR) continue;
        if (watched[0].revents == 0) return -1; /* out of time, or stopping and nothing was sent */
        ssize_t got = recv(conn->fd, conn->buffer + conn->used, BUFFER_SIZE - conn->used, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got > 0) conn->used += (size_t)got;
        return (int)got;
    }
}

void consume(struct conn *conn, size_t size) {
    conn->used -= size;
    memmove(conn->buffer, conn->buffer + size, conn->used);
}

/* Wait for a whole head. Returns its size, 0 when there is nothing to answer, -1 when it is too large. */
static long read_head(struct conn *conn) {
    /* Only a kept connection is ever idle; a fresh one has the time that servers give to a first request. */
    long deadline = now_ms() + (conn->served ? settings.idle_close_ms : STALL_MS);
    bool started = false;
    for (;;) {
        while (!started && conn->used > 0 && (conn->buffer[0] == '\r' || conn->buffer[0] == '\n')) consume(conn, 1);
        char *end = memmem(conn->buffer, conn->used, "\r\n\r\n", 4);
        if (end != NULL) return end + 4 - conn->buffer;
        if (conn->used == BUFFER_SIZE) return -1;
        if (!started && conn->used > 0) {
            started = true;
            deadline = now_ms() + STALL_MS;
        }
        if (!started && !conn->served && is_stopping()) {
            /* Accepted just before the stop: its request may still be on the way. */
            if (fill(conn, FIRST_REQUEST_GRACE_MS, false) <= 0) return 0;
        } else if (fill(conn, deadline - now_ms(), !started) <= 0) {
            if (!(is_stopping() && !started && !conn->served)) return 0;
        }
    }
}

static bool has_token(const char *value, const char *token) {
    size_t size = strlen(token);
    for (const char *at = value; (at = strcasestr(at, token)) != NULL; at += size) {
        bool starts = at == value || strchr(" ,\t", at[-1]) != NULL;
        if (starts && strchr(" ,;\t", at[size]) != NULL) return true; /* strchr also finds the end of the text */
    }
    return false;
}

static bool parse_length(const char *value, struct request *request) {
    char *end = NULL;
    errno = 0;
    long long length = strtoll(value, &end, 10);
    if (errno != 0 || end == value || *end != '\0' || *value < '0' || *value > '9') return false;
    if (request->content_length >= 0 && request->content_length != length) return false;
    request->content_length = length;
    return true;
}

static bool parse_field(char *line, struct request *request) {
    char *value = strchr(line, ':');
    if (value == NULL || value == line || strcspn(line, " \t") < (size_t)(value - line)) return false;
    *value++ = '\0';
    value += strspn(value, " \t");
    for (char *end = value + strlen(value); end > value && strchr(" \t", end[-1]) != NULL;) *--end = '\0';
    if (strcasecmp(line, "Content-Length") == 0) return parse_length(value, request);
    if (strcasecmp(line, "Transfer-Encoding") == 0) request->is_chunked = true;
    if (strcasecmp(line, "Cookie") == 0) request->cookie = value;
    if (strcasecmp(line, "Sec-WebSocket-Key") == 0) request->websocket_key = value;
    if (strcasecmp(line, "Upgrade") == 0) request->wants_upgrade = has_token(value, "websocket");
    if (strcasecmp(line, "Expect") == 0) request->expects_continue = has_token(value, "100-continue");
    if (strcasecmp(line, "Connection") == 0 && has_token(value, "close")) request->wants_close = true;
    return true;
}

/* Split the head in place. False: it is no HTTP/1 request. */
static bool parse_head(char *head, size_t size, struct request *request) {
    *request = (struct request){.content_length = -1, .head_size = size};
    head[size - 2] = '\0'; /* ends the last field's line feed, which is cut below */
    if (strlen(head) != size - 2) return false;
    char *next = strstr(head, "\r\n");
    *next = '\0';
    request->method = head;
    if ((request->path = strchr(head, ' ')) == NULL) return false;
    *request->path++ = '\0';
    char *protocol = strchr(request->path, ' ');
    if (protocol == NULL || request->path[0] != '/') return false;
    *protocol++ = '\0';
    request->is_http10 = strcmp(protocol, "HTTP/1.0") == 0;
    if (!request->is_http10 && strcmp(protocol, "HTTP/1.1") != 0) return false;
    if (*head == '\0' || strspn(head, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != strlen(head)) return false;
    request->is_head = strcmp(head, "HEAD") == 0;
    if ((request->query = strchr(request->path, '?')) != NULL) *request->query++ = '\0';
    for (char *line = next + 2; *line != '\0'; line = next + 2) {
        if ((next = strstr(line, "\r\n")) == NULL) return false;
        *next = '\0';
        if (!parse_field(line, request)) return false;
    }
    return true;
}

/* Read the body and forget it. The head stays where it is, so at most the rest of the buffer is used at a time. */
static bool skip_body(struct conn *conn, const struct request *request) {
    long long left = request->content_length > 0 ? request->content_length : 0; /* -1: none was named */
    for (;;) {
        size_t ahead = conn->used - request->head_size;
        size_t taken = (long long)ahead < left ? ahead : (size_t)left;
        memmove(conn->buffer + request->head_size, conn->buffer + request->head_size + taken, ahead - taken);
        conn->used -= taken;
        left -= (long long)taken;
        if (left <= 0) return true;
        if (conn->used == BUFFER_SIZE || fill(conn, STALL_MS, false) <= 0) return false;
    }
}

/* Close so that the reply is not lost: unread bytes would make the kernel reset the connection. */
static void linger(struct conn *conn) {
    long deadline = now_ms() + LINGER_MS;
    shutdown(conn->fd, SHUT_WR);
    do {
        conn->used = 0;
    } while (now_ms() < deadline && fill(conn, deadline - now_ms(), false) > 0);
}

/* Answer one request. False: the connection is of no more use. */
static bool serve_request(struct conn *conn, size_t head_size) {
    struct request request;
    conn->keep = false;
    if (!parse_head(conn->buffer, head_size, &request)) return reply(conn, NULL, 400, "", "bad request\n");
    if (request.is_chunked) return reply(conn, &request, 411, "", "length required\n");
    if (request.expects_continue && !send_all(conn->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25)) return false;
    if (!skip_body(conn, &request)) return false;
    conn->served = true;
    conn->keep = !request.is_http10 && !request.wants_close && !is_stopping();
    if (settings.log_requests)
        log_line("request %s %s%s%s", request.method, request.path, request.query != NULL ? "?" : "",
                 request.query != NULL ? request.query : "");
    if (!route(conn, &request)) {
        conn->keep = false;
        return false;
    }
    consume(conn, head_size);
    return true;
}

void serve_connection(struct conn *conn) {
    do {
        long size = read_head(conn);
        if (size == 0) return;
        if (size < 0) {
            conn->keep = false;
            reply(conn, NULL, 431, "", "header too large\n");
            break;
        }
        if (!serve_request(conn, (size_t)size)) break;
    } while (conn->keep);
    linger(conn);
}
